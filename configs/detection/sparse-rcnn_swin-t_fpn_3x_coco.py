"""Sparse R-CNN on Swin-T and FPN, 36 epochs of COCO."""

_base_ = ["../_base_/coco.py", "../_base_/sparse_rcnn_fpn.py", "../_base_/schedule_3x.py"]
# The paper names one learning rate for all its detectors (Sparse R-CNN itself: 2.5e-5); the clipping is Sparse R-CNN's.

model = dict(backbone=dict(type="SwinDense", variant="swin_tiny", drop_path_rate=0.2))
training = dict(clip_gradient_norm=1.0)
