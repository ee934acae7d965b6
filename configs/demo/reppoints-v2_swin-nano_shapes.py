"""A small RepPoints V2 on the embedded shapes."""

_base_ = ["../_base_/shapes.py"]

model = dict(
    type="SingleStageDetector",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(type="SwinDense", variant="swin_nano", out_indices=(1, 2, 3), drop_path_rate=0.0),
    neck=dict(type="BiFPN", out_channels=64, num_outs=5, num_repeat=1, norm_cfg=dict(type="GN", num_groups=16)),
    bbox_head=dict(
        type="RepPointsV2Head",
        num_classes=80,
        in_channels=64,
        feat_channels=64,
        point_feat_channels=64,
        corner_dim=32,
        stacked_convs=2,
        shared_stacked_convs=1,
        num_points=9,
        gradient_mul=0.1,
        point_strides=[8, 16, 32, 64, 128],
        norm_cfg=dict(type="GN", num_groups=16),
        loss_cls=dict(type="QualityFocalLoss", beta=2.0, loss_weight=1.0),
        loss_bbox_init=dict(type="InclusiveGIoULoss", loss_weight=1.0),
        loss_bbox_refine=dict(type="InclusiveGIoULoss", loss_weight=2.0),
        loss_heatmap=dict(type="GaussianFocalLoss", alpha=2.0, gamma=4.0, loss_weight=0.25),
        loss_offset=dict(type="SmoothL1Loss", beta=1.0 / 9.0, loss_weight=1.0),
        loss_sem=dict(type="ForegroundFocalLoss", gamma=2.0, alpha=0.25, loss_weight=0.1),
    ),
    train_cfg=dict(scale=4, topk=9, corner_overlap=0.7),
    test_cfg=dict(
        nms_pre=300, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.6), max_per_img=100
    ),
)
