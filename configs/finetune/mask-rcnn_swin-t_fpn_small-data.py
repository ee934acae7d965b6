"""Mask R-CNN on Swin-T, fine-tuned on a small data set of your own."""

_base_ = ["../_base_/small_data.py", "../_base_/mask_rcnn_fpn.py"]

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
