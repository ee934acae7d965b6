"""A small Mask R-CNN on the embedded shapes: the detection demo."""

_base_ = ["../_base_/shapes.py", "../_base_/mask_rcnn_nano.py"]

model = dict(backbone=dict(type="SwinDense", variant="swin_nano", drop_path_rate=0.0))
