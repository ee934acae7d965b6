"""A small RepPoints V2 on the embedded shapes."""

_base_ = ["../_base_/shapes.py", "../_base_/reppoints_v2_bifpn.py"]

model = dict(
    backbone=dict(type="SwinDense", variant="swin_nano", out_indices=(1, 2, 3), drop_path_rate=0.0),
    neck=dict(out_channels=64, num_repeat=1, norm_cfg=dict(num_groups=16)),
    bbox_head=dict(
        in_channels=64,
        feat_channels=64,
        point_feat_channels=64,
        corner_dim=32,
        stacked_convs=2,
        norm_cfg=dict(num_groups=16),
    ),
    test_cfg=dict(nms_pre=300),
)
