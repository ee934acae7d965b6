"""Swin-MLP-T, 12 channels a head, at 256: 300 epochs of ImageNet-1K."""

_base_ = ["../_base_/imagenet_256.py", "../_base_/imagenet_300e.py"]

model = dict(
    type="ImageClassifier",
    backbone=dict(type="SwinDense", variant="swin_mlp_tiny_c12", drop_path_rate=0.2),
    head=dict(num_classes=1000),
)
