"""Swin V2-S at 256, 300 epochs of ImageNet-1K from random weights."""

_base_ = ["../_base_/imagenet_256.py", "../_base_/imagenet_300e.py"]

model = dict(
    type="ImageClassifier",
    backbone=dict(type="SwinDense", variant="swinv2_small", drop_path_rate=0.3),
    head=dict(num_classes=1000),
)
