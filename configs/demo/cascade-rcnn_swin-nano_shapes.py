"""A small Cascade R-CNN on the embedded shapes."""

_base_ = ["../_base_/shapes.py", "../_base_/cascade_rcnn_fpn.py"]

# Its box heads have one convolution instead of four.
model = dict(
    backbone=dict(type="SwinDense", variant="swin_nano", drop_path_rate=0.0),
    neck=dict(out_channels=64, norm_cfg=dict(type="BN")),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[4]),
        loss_bbox=dict(_delete_=True, type="L1Loss", loss_weight=1.0),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2), out_channels=64, finest_scale=28),
        bbox_head=[
            dict(
                type="ConvFCBBoxHead",
                num_shared_convs=1,
                num_shared_fcs=1,
                in_channels=64,
                conv_out_channels=64,
                fc_out_channels=256,
                roi_feat_size=7,
                num_classes=80,
                bbox_coder=dict(
                    type="DeltaXYWHBBoxCoder",
                    target_means=[0.0, 0.0, 0.0, 0.0],
                    target_stds=[centre, centre, side, side],
                ),
                reg_class_agnostic=False,
                reg_decoded_bbox=True,
                norm_cfg=dict(type="BN"),
                loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type="GIoULoss", loss_weight=10.0),
            )
            for centre, side in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))
        ],
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128), allowed_border=-1),
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=[
            dict(
                assigner=dict(
                    type="MaxIoUAssigner",
                    pos_iou_thr=iou,
                    neg_iou_thr=iou,
                    min_pos_iou=iou,
                    match_low_quality=False,
                    ignore_iof_thr=-1,
                ),
                sampler=dict(type="RandomSampler", num=64, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
                pos_weight=-1,
                debug=False,
            )
            for iou in (0.5, 0.6, 0.7)
        ],
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)),
)
