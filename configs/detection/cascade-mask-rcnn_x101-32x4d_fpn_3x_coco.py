"""Cascade Mask R-CNN on ResNeXt-101-32x4d and FPN, 36 epochs of COCO."""

_base_ = ["../_base_/coco.py", "../_base_/cascade_mask_rcnn_fpn.py", "../_base_/schedule_3x.py"]
# A baseline of the paper, with the optimizer, schedule and augmentation of the Swin rows.

model = dict(
    backbone=dict(
        type="ResNeXt",
        depth=101,
        groups=32,
        base_width=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=True,
        style="pytorch",
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
