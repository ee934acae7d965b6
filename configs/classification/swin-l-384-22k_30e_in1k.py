"""Swin-L at 384, 30 epochs of ImageNet-1K from ImageNet-22K at 224."""

_base_ = ["../_base_/imagenet_384.py", "../_base_/imagenet_30e_finetune.py"]
# Start from swin-l_90e_in22k: --weights FILE --new-classes; the bias tables are resized to windows of 12.

model = dict(
    type="ImageClassifier",
    backbone=dict(type="SwinDense", variant="swin_large_384", drop_path_rate=0.2),
    head=dict(num_classes=1000),
)
