"""Mask R-CNN on Swin-T and FPN, 12 epochs of COCO."""

_base_ = ["../_base_/coco.py", "../_base_/mask_rcnn_fpn.py", "../_base_/schedule_1x.py"]

model = dict(backbone=dict(type="SwinDense", variant="swin_tiny", drop_path_rate=0.1))
