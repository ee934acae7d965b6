"""Mask RepPoints V2 on Swin-T and BiFPN, 36 epochs of COCO."""

_base_ = ["../_base_/coco.py", "../_base_/mask_reppoints_v2_bifpn.py", "../_base_/schedule_3x.py"]

model = dict(backbone=dict(type="SwinDense", variant="swin_tiny", out_indices=(1, 2, 3), drop_path_rate=0.2))
# Drawn from every whole number, as published for this one; RepPoints V2 without masks takes every 32nd.
augmentation = dict(short_sides=tuple(range(480, 961)), crop_short_sides=None)
