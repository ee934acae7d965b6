"""A small UperNet that learns three images of ADE20K by heart."""

_base_ = ["../_base_/upernet_nano.py"]

# Learns three images of ADE20K by heart: the quickest proof that images, labels and model fit together.
# It validates on the images that it trains on, so its scores say nothing about other images.
data = dict(
    root="data/ade/ADEChallengeData2016",
    train=dict(images="images/training", labels="annotations/training"),
    val=dict(images="images/training", labels="annotations/training"),
    classes="objectInfo150.txt",
    label_shift=-1,
    batch_size=3,
    num_workers=0,
    limit_images=3,
)
augmentation = dict(
    scale=(1024, 256),
    ratio_range=(1.0, 1.0),
    crop_size=(256, 384),
    cat_max_ratio=1.0,
    flip_probability=0.0,
    photometric_distortion=False,
    test_scale=(1024, 256),
)
model = dict(
    data_preprocessor=dict(size=(256, 384)),
    decode_head=dict(dropout_ratio=0.0, sampler=dict(type="OHEMPixelSampler", thresh=0.9, min_kept=5000)),
)
optimizer = dict(learning_rate=2e-3, weight_decay=0.0)
schedule = dict(steps=600, power=1.0, warmup_steps=20, warmup_ratio=0.01)
training = dict(clip_gradient_norm=5.0, validate_every=200, log_every=10)
