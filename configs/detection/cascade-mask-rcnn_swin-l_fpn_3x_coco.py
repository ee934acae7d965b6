"""Cascade Mask R-CNN on Swin-L and FPN, 36 epochs of COCO."""

_base_ = ["../_base_/coco.py", "../_base_/cascade_mask_rcnn_fpn.py", "../_base_/schedule_3x.py"]
# Published by the ConvNeXt paper, without its drop path rate; this is the official one of Swin-B.

model = dict(backbone=dict(type="SwinDense", variant="swin_large", drop_path_rate=0.3))
