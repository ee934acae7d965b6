"""Mask R-CNN on Swin-T and FPN, 36 epochs of COCO."""

_base_ = ["../_base_/coco.py", "../_base_/mask_rcnn_fpn.py", "../_base_/schedule_3x.py"]

model = dict(backbone=dict(type="SwinDense", variant="swin_tiny", drop_path_rate=0.2))
