"""Mask R-CNN on Swin-S and FPN, 12 epochs of COCO."""

_base_ = ["../_base_/coco.py", "../_base_/mask_rcnn_fpn.py", "../_base_/schedule_1x.py"]
# The paper does not train Swin-S for 1x; the drop path rate is that of its 3x recipe.

model = dict(backbone=dict(type="SwinDense", variant="swin_small", drop_path_rate=0.2))
