# COCO 2017 instances with the official multi-scale policy (Swin Transformer object detection, from DETR).
# A step of the recipe sees 16 images, for instance 8 devices x 2; on fewer devices gradients are accumulated to match.
data = dict(
    root="data/coco",
    train=dict(annotations="annotations/instances_train2017.json", images="train2017"),
    val=dict(annotations="annotations/instances_val2017.json", images="val2017"),
    batch_size=2,
    num_workers=2,
    keep_empty=False,
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
    learning_rate=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.05,
    no_decay=("absolute_pos_embed", "relative_position_bias_table", "logit_scale", "cpb_mlp", "norm"),
)
training = dict(precision="auto", images_per_step=16)
