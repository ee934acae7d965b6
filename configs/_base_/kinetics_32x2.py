# Kinetics with clips of 32 frames, every second one, and the official 30 epochs (Video Swin Transformer).
# A step of the recipe sees as many clips as training.images_per_step; on fewer devices gradients are accumulated.
task = "video"
data = dict(
    root="data/kinetics400",
    train=dict(videos="videos_train"),
    val=dict(videos="videos_val"),
    batch_size=8,
    frames=32,
    stride=2,
    eval_batch_size=4,
    num_workers=8,
)
augmentation = dict(size=224, short_side=256)
validation = dict(clips=1, crops=1, short_side=256)
inference = dict(clips=4, crops=3, view_batch_size=12)
schedule = dict(epochs=30, warmup_epochs=2.5, warmup_ratio=0.1, min_ratio=0.0)
score_metric = "top1"
