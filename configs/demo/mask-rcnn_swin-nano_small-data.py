"""A small Mask R-CNN that learns some dozens of your own photos."""

_base_ = ["../_base_/shapes.py", "../_base_/mask_rcnn_nano.py"]

# From random weights and on CPUs: it shows the way from photos to predictions, and finds little on photos that are new.
model = dict(backbone=dict(type="SwinDense", variant="swin_nano", drop_path_rate=0.0))
augmentation = dict(short_sides=(256,), max_long_side=384, test_short_side=256, test_max_long_side=384)
schedule = dict(epochs=80, milestones=(64,))
training = dict(validate_every=8, log_every=5)
