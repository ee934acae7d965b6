"""Mask R-CNN on Swin-B and FPN, 36 epochs of COCO."""

_base_ = ["../_base_/coco.py", "../_base_/mask_rcnn_fpn.py", "../_base_/schedule_3x.py"]
# Not published; the drop path rate is that of Cascade Mask R-CNN on Swin-B.

model = dict(backbone=dict(type="SwinDense", variant="swin_base", drop_path_rate=0.3))
