"""A small Mask R-CNN with a ResNet backbone on the embedded shapes."""

_base_ = ["../_base_/shapes.py", "../_base_/mask_rcnn_nano.py"]

# A ResNet-18 of half the width, whose maps are as wide as those of swin_nano.
model = dict(
    backbone=dict(
        type="ResNet",
        depth=18,
        stem_channels=32,
        base_channels=32,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
    ),
    neck=dict(in_channels=[32, 64, 128, 256]),
)
