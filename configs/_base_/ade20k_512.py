# ADE20K (SceneParse150) with the official augmentation of 512-pixel crops (Swin Transformer semantic segmentation).
# A step of the recipe sees 16 images, for instance 8 devices x 2; on fewer devices gradients are accumulated to match.
data = dict(
    root="data/ade/ADEChallengeData2016",
    train=dict(images="images/training", labels="annotations/training"),
    val=dict(images="images/validation", labels="annotations/validation"),
    classes="objectInfo150.txt",
    label_shift=-1,
    ignore_index=255,
    batch_size=2,
    eval_batch_size=1,
    num_workers=4,
)
augmentation = dict(
    scale=(2048, 512),
    ratio_range=(0.5, 2.0),
    crop_size=(512, 512),
    cat_max_ratio=0.75,
    flip_probability=0.5,
    photometric_distortion=True,
    test_scale=(2048, 512),
)
