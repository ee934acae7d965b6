"""UperNet on Swin-T whose attention is its position bias alone, ADE20K."""

_base_ = ["../_base_/ade20k_512.py", "../_base_/upernet.py", "../_base_/schedule_160k.py"]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(type="SwinDense", variant="swin_tiny", drop_path_rate=0.3, appearance_term=False),
)
