# The embedded shapes, and how a small detector learns them on two CPU cores in less than five minutes.
data = dict(
    root="data/shapes",
    train=dict(annotations="annotations/instances_train.json", images="images/train"),
    val=dict(annotations="annotations/instances_val.json", images="images/val"),
    batch_size=4,
    eval_batch_size=8,
    num_workers=1,
)
augmentation = dict(short_sides=(128,), max_long_side=128, test_short_side=128, test_max_long_side=128)
optimizer = dict(learning_rate=1e-3, weight_decay=0.05)
schedule = dict(epochs=3, milestones=(2,), warmup_steps=50)
training = dict(clip_gradient_norm=5.0, validate_every=1, log_every=50)
