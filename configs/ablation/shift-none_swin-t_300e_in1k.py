"""Swin-T without shifted windows, 300 epochs of ImageNet-1K."""

_base_ = ["../_base_/imagenet_224.py", "../_base_/imagenet_300e.py"]

model = dict(
    type="ImageClassifier",
    backbone=dict(type="SwinDense", variant="swin_tiny", drop_path_rate=0.2, shift_windows=False),
    head=dict(num_classes=1000),
)
