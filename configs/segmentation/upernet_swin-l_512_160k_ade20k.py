"""UperNet on Swin-L, 512-pixel crops, 160,000 steps of ADE20K."""

_base_ = ["../_base_/ade20k_512.py", "../_base_/upernet.py", "../_base_/schedule_160k.py"]
# Not in the paper; mmsegmentation trains it so, from weights of ImageNet-22K. Drop path as for T, S and B.

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(type="SwinDense", variant="swin_large", drop_path_rate=0.3),
)
