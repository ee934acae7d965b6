# ImageNet with the official augmentation at 256 pixels (Swin Transformer classification).
# A step of the recipe sees as many images as training.images_per_step; on fewer devices gradients are accumulated.
task = "classification"
data = dict(
    root="data/imagenet",
    train=dict(images="train"),
    val=dict(images="val"),
    batch_size=128,
    eval_batch_size=128,
    num_workers=8,
)
augmentation = dict(
    size=256,
    test_resize=292,
    rand_augment="rand-m9-mstd0.5-inc1",
    erase_probability=0.25,
    mixup=0.8,
    cutmix=1.0,
    label_smoothing=0.1,
)
score_metric = "top1"
