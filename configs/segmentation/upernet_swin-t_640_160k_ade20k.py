"""UperNet on Swin-T, 640-pixel crops, 160,000 steps of ADE20K."""

_base_ = ["../_base_/ade20k_640.py", "../_base_/upernet.py", "../_base_/schedule_160k.py"]
# Not in the paper, which has 640-pixel crops for B and L alone; T as in its 512-pixel recipe otherwise.

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(type="SwinDense", variant="swin_tiny", drop_path_rate=0.3),
)
