"""A small Mask R-CNN that learns eight images of COCO by heart."""

_base_ = ["../_base_/mask_rcnn_nano.py"]

# Learns eight images of a COCO data set by heart: the quickest proof that data, labels and model fit together.
# It validates on the images that it trains on, so its scores say nothing about other images.
model = dict(backbone=dict(type="SwinDense", variant="swin_nano", drop_path_rate=0.0))
data = dict(
    root="data/coco",
    train=dict(annotations="annotations/instances_train2017.json", images="train2017"),
    val=dict(annotations="annotations/instances_train2017.json", images="train2017"),
    batch_size=4,
    eval_batch_size=8,
    num_workers=0,
    keep_empty=True,
    min_side=0,
    limit_images=8,
)
augmentation = dict(
    short_sides=(256,), max_long_side=342, flip_probability=0.0, test_short_side=256, test_max_long_side=342
)
optimizer = dict(learning_rate=1e-3, weight_decay=0.0)
schedule = dict(epochs=150, milestones=(125,), warmup_steps=20)
training = dict(validate_every=25, log_every=2)
score_metric = "bbox_AP50"
