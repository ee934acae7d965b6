"""Cascade Mask R-CNN on Swin-B and FPN, 36 epochs of COCO."""

_base_ = ["../_base_/coco.py", "../_base_/cascade_mask_rcnn_fpn.py", "../_base_/schedule_3x.py"]
# The drop path rate is that of the official config; the paper says 0.2.

model = dict(backbone=dict(type="SwinDense", variant="swin_base", drop_path_rate=0.3))
