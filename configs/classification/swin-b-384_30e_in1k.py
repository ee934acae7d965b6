"""Swin-B at 384, 30 epochs of ImageNet-1K from weights trained at 224."""

_base_ = ["../_base_/imagenet_384.py", "../_base_/imagenet_30e_finetune.py"]
# Start from swin-b_300e_in1k: --weights FILE; the bias tables are resized from windows of 7 to windows of 12.

model = dict(
    type="ImageClassifier",
    backbone=dict(type="SwinDense", variant="swin_base_384", drop_path_rate=0.5),
    head=dict(num_classes=1000),
)
