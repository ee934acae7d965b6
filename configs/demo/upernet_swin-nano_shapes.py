"""A small UperNet on the embedded shapes: the segmentation demo."""

_base_ = ["../_base_/upernet_nano.py"]

# Learns the embedded shapes on two CPU cores in less than five minutes.
data = dict(
    root="data/shapes/ade20k",
    train=dict(images="images/training", labels="annotations/training"),
    val=dict(images="images/validation", labels="annotations/validation"),
    classes="objectInfo150.txt",
    label_shift=-1,
    batch_size=8,
    eval_batch_size=8,
    num_workers=1,
)
augmentation = dict(
    scale=(128, 128),
    ratio_range=(0.8, 1.25),
    crop_size=(128, 128),
    cat_max_ratio=1.0,
    flip_probability=0.5,
    photometric_distortion=False,
    test_scale=None,
)
model = dict(data_preprocessor=dict(size=(128, 128)))
optimizer = dict(learning_rate=1e-3, weight_decay=0.01)
schedule = dict(steps=450, power=1.0, warmup_steps=50, warmup_ratio=0.01)
training = dict(clip_gradient_norm=5.0, validate_every=150, log_every=50)
