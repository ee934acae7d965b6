"""Mask R-CNN on Swin-T, fine-tuned on a small data set of your own."""

_base_ = ["../_base_/coco.py", "../_base_/mask_rcnn_fpn.py"]

# Your own classes on some hundred to a few thousand images, from the COCO weights of mask-rcnn_swin-t_fpn_{1x,3x}_coco:
#   swin-dense train mask-rcnn_swin-t_fpn_small-data --data MINE --weights COCO --new-classes
model = dict(
    backbone=dict(
        type="SwinDense",
        variant="swin_tiny",
        drop_path_rate=0.2,  # that of the 3x recipe: here, too, every image is seen many times
        frozen_stages=1,  # edges and textures are the same in any photograph, and few images would only blur them
    ),
)
data = dict(
    train=dict(annotations="annotations/instances_train.json", images="images/train"),
    val=dict(annotations="annotations/instances_val.json", images="images/val"),
    keep_empty=True,  # images of nothing are in a small data set on purpose: they teach what is no object
)
optimizer = dict(
    learning_rate=5e-5,  # half the recipe's for half its batch: the weights are good already, the new layers small
    layer_decay=0.9,  # the first block that learns moves at a third of that: it has most to lose
)
schedule = dict(
    epochs=24,
    milestones=(16, 22),
    warmup_steps=100,  # 500 would be most of the training of 200 images
)
training = dict(
    images_per_step=8,  # so that a step does not hang on two of them
    ema_decay=0.99,  # the average of about 100 steps: single steps are noisy where a batch is a large part of the data
    validate_every=2,
    log_every=10,
)
