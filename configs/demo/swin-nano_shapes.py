"""A small Swin on the embedded shapes: the classification demo."""

# Learns the embedded shapes on two CPU cores in less than five minutes.
task = "classification"
data = dict(
    root="data/shapes/imagenet",
    train=dict(images="train"),
    val=dict(images="val"),
    batch_size=32,
    eval_batch_size=64,
    num_workers=1,
)
augmentation = dict(size=64, test_resize=None, scale=(0.6, 1.0), label_smoothing=0.1)
model = dict(
    type="ImageClassifier",
    backbone=dict(type="SwinDense", variant="swin_nano", drop_path_rate=0.0),
    head=dict(num_classes=6),
)
optimizer = dict(
    learning_rate=1e-3,
    weight_decay=0.05,
    no_decay=("absolute_pos_embed", "relative_position_bias_table", "logit_scale", "cpb_mlp", "norm", "bias"),
)
schedule = dict(epochs=12, warmup_epochs=1.0)
training = dict(clip_gradient_norm=5.0, log_every=50)
score_metric = "top1"
