"""UperNet on Swin V2-B, 512-pixel crops, 160,000 steps of ADE20K."""

_base_ = ["../_base_/ade20k_512.py", "../_base_/upernet.py", "../_base_/schedule_160k.py"]
# Not published; the recipe is that of Swin-B.

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(type="SwinDense", variant="swinv2_base", drop_path_rate=0.3),
)
