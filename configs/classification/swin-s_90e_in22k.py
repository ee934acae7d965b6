"""Swin-S at 224, 90 epochs of ImageNet-22K from random weights."""

_base_ = ["../_base_/imagenet_224.py", "../_base_/imagenet_90e_22k.py"]
data = dict(root="data/imagenet22k")

model = dict(
    type="ImageClassifier",
    backbone=dict(type="SwinDense", variant="swin_small", drop_path_rate=0.2),
    head=dict(num_classes=21841),
)
