"""Mask R-CNN on Swin V2-S and FPN, 36 epochs of COCO."""

_base_ = ["../_base_/coco.py", "../_base_/mask_rcnn_fpn.py", "../_base_/schedule_3x.py"]
# Not published; the recipe is that of Swin-S.

model = dict(backbone=dict(type="SwinDense", variant="swinv2_small", drop_path_rate=0.2))
