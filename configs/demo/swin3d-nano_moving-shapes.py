"""A small Video Swin on the embedded moving shapes: the video demo."""

# Small enough for two CPU cores.
task = "video"
data = dict(
    root="data/moving-shapes",
    train=dict(videos="train"),
    val=dict(videos="val"),
    batch_size=32,
    frames=8,
    stride=2,
    eval_batch_size=32,
    num_workers=1,
)
augmentation = dict(
    size=32, short_side=32, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip_probability=0.0, label_smoothing=0.1
)
model = dict(
    type="VideoClassifier",
    backbone=dict(type="SwinDense", variant="swin3d_nano", drop_path_rate=0.0),
    head=dict(num_classes=4, dropout=0.0),
)
optimizer = dict(
    learning_rate=1e-3,
    weight_decay=0.05,
    no_decay=("absolute_pos_embed", "relative_position_bias_table", "norm", "bias"),
    backbone_factor=1.0,
)
schedule = dict(epochs=12, warmup_epochs=1.0)
inference = dict(clips=1, crops=1, view_batch_size=32)
training = dict(clip_gradient_norm=5.0, log_every=20)
score_metric = "top1"
