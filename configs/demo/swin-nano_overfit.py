"""A small Swin that learns some images of ImageNet by heart."""

# Learns the validation images by heart: the quickest proof that images, labels and model fit together.
# It validates on the images that it trains on, so its scores say nothing about other images.
task = "classification"
data = dict(
    root="data/imagenet",
    train=dict(images="val"),
    val=dict(images="val"),
    batch_size=30,
    eval_batch_size=30,
    num_workers=0,
)
augmentation = dict(size=64, test_resize=64, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip_probability=0.0)
model = dict(
    type="ImageClassifier",
    backbone=dict(type="SwinDense", variant="swin_nano", drop_path_rate=0.0),
    head=dict(num_classes=1000),
)
optimizer = dict(
    learning_rate=1e-3,
    weight_decay=0.0,
    no_decay=("absolute_pos_embed", "relative_position_bias_table", "logit_scale", "cpb_mlp", "norm", "bias"),
)
schedule = dict(epochs=60, warmup_epochs=5.0)
training = dict(clip_gradient_norm=5.0, validate_every=20, log_every=10)
score_metric = "top1"
