# Something-Something V2: one frame of each of 32 segments, and the official 60 epochs (Video Swin Transformer).
# Left and right make different classes: nothing is mirrored.
task = "video"
data = dict(
    root="data/sthv2",
    train=dict(videos="videos", labels="train.json"),
    val=dict(videos="videos", labels="validation.json"),
    classes="labels.json",
    batch_size=8,
    frames=32,
    segments=True,
    eval_batch_size=4,
    num_workers=8,
)
augmentation = dict(
    size=224,
    short_side=256,
    flip_probability=0.0,
    rand_augment=(4, 7),
    erase_probability=0.25,
    label_smoothing=0.1,
)
validation = dict(clips=1, crops=1, short_side=256)
inference = dict(clips=1, crops=3, view_batch_size=12, timeline=False)
schedule = dict(epochs=60, warmup_epochs=2.5, warmup_ratio=0.1, min_ratio=0.0)
score_metric = "top1"
