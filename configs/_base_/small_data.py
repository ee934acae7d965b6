# Some hundred to a few thousand images of your own on one device, with the augmentation of the official COCO recipe.
data = dict(
    root="data/coco",
    train=dict(annotations="annotations/instances_train.json", images="images/train"),
    val=dict(annotations="annotations/instances_val.json", images="images/val"),
    batch_size=2,
    num_workers=2,
    keep_empty=True,  # images of nothing are in a small data set on purpose: they teach what is no object
    min_side=32,
    size_divisor=32,
)
augmentation = dict(
    short_sides=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
    max_long_side=1333,
    crop_short_sides=(400, 500, 600),
    crop_range=(384, 600),
    flip_probability=0.5,
    test_short_side=800,
    test_max_long_side=1333,
)
optimizer = dict(
    learning_rate=5e-5,  # half the recipe's for half its batch: the weights are good already, the new layers small
    betas=(0.9, 0.999),
    weight_decay=0.05,
    no_decay=("absolute_pos_embed", "relative_position_bias_table", "logit_scale", "cpb_mlp", "norm"),
    layer_decay=0.9,  # the first block that learns moves at a third of that: it has most to lose
)
schedule = dict(
    epochs=24,
    milestones=(16, 22),
    warmup_steps=100,  # 500 would be most of the training of 200 images
)
training = dict(
    precision="auto",
    images_per_step=8,  # so that a step does not hang on two of them
    ema_decay=0.99,  # the average of about 100 steps: single steps are noisy where a batch is a large part of the data
    validate_every=2,
    log_every=10,
)
