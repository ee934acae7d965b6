"""Swin-B at 224, 30 epochs of ImageNet-1K from ImageNet-22K."""

_base_ = ["../_base_/imagenet_224.py", "../_base_/imagenet_30e_finetune.py"]
# Start from swin-b_90e_in22k: --weights FILE --new-classes.

model = dict(
    type="ImageClassifier",
    backbone=dict(type="SwinDense", variant="swin_base", drop_path_rate=0.2),
    head=dict(num_classes=1000),
)
