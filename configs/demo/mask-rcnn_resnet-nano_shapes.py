_base_ = ["../_base_/shapes.py", "../_base_/mask_rcnn_nano.py"]

# The same detector on a ResNet-18 of half the width, whose maps are as wide as those of swin_nano.
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
