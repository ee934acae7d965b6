"""Swin-MLP-B at 224, 300 epochs of ImageNet-1K from random weights."""

_base_ = ["../_base_/imagenet_224.py", "../_base_/imagenet_300e.py"]

model = dict(
    type="ImageClassifier",
    backbone=dict(type="SwinDense", variant="swin_mlp_base", drop_path_rate=0.5),
    head=dict(num_classes=1000),
)
