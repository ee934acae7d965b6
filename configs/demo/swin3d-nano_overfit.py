"""A small Video Swin that learns some videos by heart."""

# Learns the validation videos by heart: the quickest proof that videos, labels and model fit together.
# It validates on the videos that it trains on, so its scores say nothing about other videos.
task = "video"
data = dict(
    root="data/videos",
    train=dict(videos=".", labels="labels.txt"),
    val=dict(videos=".", labels="labels.txt"),
    batch_size=6,
    frames=8,
    stride=4,
    eval_batch_size=6,
    num_workers=0,
)
augmentation = dict(size=64, short_side=64, scale=(0.6, 1.0), flip_probability=0.0)
validation = dict(clips=2, crops=1)
inference = dict(clips=2, crops=3)
model = dict(
    type="VideoClassifier",
    backbone=dict(type="SwinDense", variant="swin3d_nano", drop_path_rate=0.0),
    head=dict(num_classes=400),
)
optimizer = dict(learning_rate=1e-3, weight_decay=0.0, backbone_factor=1.0)
schedule = dict(epochs=60, warmup_epochs=5.0, min_ratio=0.01)
training = dict(clip_gradient_norm=5.0, validate_every=20, log_every=10)
score_metric = "top1"
