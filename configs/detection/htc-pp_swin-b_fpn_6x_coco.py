"""HTC++ on Swin-B and FPN, 72 epochs of COCO."""

_base_ = ["../_base_/coco.py", "../_base_/htc_pp_fpn.py", "../_base_/schedule_6x.py"]
# The paper starts from weights pre-trained on ImageNet-22K. It does not say at which size it tests; here it is the
# largest of training. Its InstaBoost is left out.

data = dict(train_stuff="stuffthingmaps/train2017")
augmentation = dict(
    short_sides=tuple(range(400, 1401)),
    max_long_side=1600,
    crop_short_sides=None,
    test_short_side=1400,
    test_max_long_side=1600,
)
model = dict(
    backbone=dict(type="SwinDense", variant="swin_base", drop_path_rate=0.2),
    neck=[
        dict(type="GlobalAttention"),
        dict(type="FPN", in_channels=[128, 256, 512, 1024], out_channels=256, num_outs=5),
    ],
)
