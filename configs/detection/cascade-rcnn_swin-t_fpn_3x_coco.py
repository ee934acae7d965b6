"""Cascade R-CNN on Swin-T and FPN, 36 epochs of COCO."""

_base_ = ["../_base_/coco.py", "../_base_/cascade_rcnn_fpn.py", "../_base_/schedule_3x.py"]
# Not published; the recipe is that of Cascade Mask R-CNN.

model = dict(backbone=dict(type="SwinDense", variant="swin_tiny", drop_path_rate=0.2))
