"""RepPoints V2 on ResNet-50 and BiFPN, 36 epochs of COCO."""

_base_ = ["../_base_/coco.py", "../_base_/reppoints_v2_bifpn.py", "../_base_/schedule_3x.py"]
# A baseline of the paper, with the optimizer, schedule and augmentation of the Swin row.

model = dict(
    backbone=dict(
        type="ResNet",
        depth=50,
        out_indices=(1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=True,
        style="pytorch",
    ),
    neck=dict(in_channels=[512, 1024, 2048]),
)
augmentation = dict(short_sides=tuple(range(480, 961, 32)), crop_short_sides=None)
