"""A small Sparse R-CNN on the embedded shapes."""

_base_ = ["../_base_/shapes.py", "../_base_/sparse_rcnn_fpn.py"]

# It has 50 proposals and four stages.
model = dict(
    backbone=dict(type="SwinDense", variant="swin_nano", drop_path_rate=0.0),
    neck=dict(out_channels=64, norm_cfg=dict(type="BN")),
    rpn_head=dict(num_proposals=50, proposal_feature_channel=64),
    roi_head=dict(
        num_stages=4,
        stage_loss_weights=[1] * 4,
        proposal_feature_channel=64,
        bbox_roi_extractor=dict(out_channels=64, finest_scale=28),
        bbox_head=[
            dict(
                type="DIIHead",
                num_classes=80,
                num_ffn_fcs=2,
                num_heads=4,
                num_cls_fcs=1,
                num_reg_fcs=2,
                feedforward_channels=256,
                in_channels=64,
                dropout=0.0,
                ffn_act_cfg=dict(type="ReLU", inplace=True),
                dynamic_conv_cfg=dict(
                    type="DynamicConv",
                    in_channels=64,
                    feat_channels=16,
                    out_channels=64,
                    input_feat_shape=7,
                    act_cfg=dict(type="ReLU", inplace=True),
                    norm_cfg=dict(type="LN"),
                ),
                bbox_coder=dict(
                    type="DeltaXYWHBBoxCoder",
                    clip_border=False,
                    target_means=[0.0, 0.0, 0.0, 0.0],
                    target_stds=[0.5, 0.5, 1.0, 1.0],
                ),
                loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
                loss_bbox=dict(type="L1Loss", loss_weight=5.0),
                loss_iou=dict(type="GIoULoss", loss_weight=2.0),
            )
            for _ in range(4)
        ],
    ),
    train_cfg=dict(
        rcnn=[
            dict(
                assigner=dict(
                    type="HungarianAssigner",
                    match_costs=[
                        dict(type="FocalLossCost", weight=2.0),
                        dict(type="BBoxL1Cost", weight=5.0, box_format="xyxy"),
                        dict(type="IoUCost", iou_mode="giou", weight=2.0),
                    ],
                ),
                sampler=dict(type="PseudoSampler"),
                pos_weight=1,
            )
            for _ in range(4)
        ],
    ),
    test_cfg=dict(rcnn=dict(max_per_img=50)),
)
optimizer = dict(learning_rate=3e-4)  # its stages undo each other's work at the 1e-3 of the others
