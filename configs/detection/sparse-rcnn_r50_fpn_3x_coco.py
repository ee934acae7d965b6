"""Sparse R-CNN on ResNet-50 and FPN, 36 epochs of COCO."""

_base_ = ["../_base_/coco.py", "../_base_/sparse_rcnn_fpn.py", "../_base_/schedule_3x.py"]
# A baseline of the paper, with the optimizer, schedule and augmentation of the Swin rows.
# The paper names one learning rate for all its detectors (Sparse R-CNN itself: 2.5e-5); the clipping is Sparse R-CNN's.

model = dict(
    backbone=dict(
        type="ResNet",
        depth=50,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=True,
        style="pytorch",
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
training = dict(clip_gradient_norm=1.0)
