"""UperNet on Swin-L, 640-pixel crops, 160,000 steps of ADE20K."""

_base_ = ["../_base_/ade20k_640.py", "../_base_/upernet.py", "../_base_/schedule_160k.py"]
# In the paper from weights of ImageNet-22K. Drop path as in the official 512-pixel configs; the paper says 0.2.

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(type="SwinDense", variant="swin_large", drop_path_rate=0.3),
)
