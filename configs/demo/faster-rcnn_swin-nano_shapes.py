"""A small Faster R-CNN on the embedded shapes."""

_base_ = ["../_base_/shapes.py", "../_base_/faster_rcnn_fpn.py"]

# Narrow, with few proposals, anchors for small images, and a batch norm in the neck.
model = dict(
    backbone=dict(type="SwinDense", variant="swin_nano", drop_path_rate=0.0),
    neck=dict(out_channels=64, norm_cfg=dict(type="BN")),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2), out_channels=64, finest_scale=28),
        bbox_head=dict(in_channels=64, fc_out_channels=256),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)),
)
