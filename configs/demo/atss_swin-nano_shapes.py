"""A small ATSS on the embedded shapes."""

_base_ = ["../_base_/shapes.py", "../_base_/atss_fpn.py"]

# It uses all four stages, because the shapes are small.
model = dict(
    backbone=dict(type="SwinDense", variant="swin_nano", drop_path_rate=0.0),
    neck=dict(out_channels=64, norm_cfg=dict(type="BN")),
    bbox_head=dict(
        in_channels=64,
        stacked_convs=2,
        feat_channels=64,
        norm_cfg=dict(type="GN", num_groups=16, requires_grad=True),
        anchor_generator=dict(octave_base_scale=4, strides=[4, 8, 16, 32, 64]),
    ),
    test_cfg=dict(nms_pre=300),
)
