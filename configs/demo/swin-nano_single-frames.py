"""A small Swin on single frames of the moving shapes, which tell no motion."""

# What `swin3d-nano_moving-shapes` is compared with: the same videos, splits and size, one frame at a time.
task = "classification"
data = dict(
    root="data/moving-shapes/frames",
    train=dict(images="train"),
    val=dict(images="val"),
    batch_size=32,
    eval_batch_size=64,
    num_workers=1,
)
augmentation = dict(
    size=32, test_resize=None, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip_probability=0.0, label_smoothing=0.1
)
model = dict(
    type="ImageClassifier",
    backbone=dict(type="SwinDense", variant="swin_nano", drop_path_rate=0.0),
    head=dict(num_classes=4),
)
optimizer = dict(
    learning_rate=1e-3,
    weight_decay=0.05,
    no_decay=("absolute_pos_embed", "relative_position_bias_table", "norm", "bias"),
)
schedule = dict(epochs=10, warmup_epochs=1.0)
training = dict(clip_gradient_norm=5.0, log_every=20)
score_metric = "top1"
