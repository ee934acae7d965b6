"""Cascade Mask R-CNN on Swin-T without positions, 3x."""

_base_ = ["../_base_/coco.py", "../_base_/cascade_mask_rcnn_fpn.py", "../_base_/schedule_3x.py"]

model = dict(
    backbone=dict(type="SwinDense", variant="swin_tiny", drop_path_rate=0.2, relative_position_bias=False),
)
