"""Faster R-CNN on Swin-T, fine-tuned on a small data set of boxes of your own."""

_base_ = ["../_base_/small_data.py", "../_base_/faster_rcnn_fpn.py"]

# Boxes of your own classes on some hundred to a few thousand images, from the COCO weights of Mask R-CNN on Swin-T:
#   swin-dense train faster-rcnn_swin-t_fpn_small-data --data MINE --weights COCO --new-classes \
#       --ignore roi_head.mask_head
model = dict(
    backbone=dict(
        type="SwinDense",
        variant="swin_tiny",
        drop_path_rate=0.2,  # that of the 3x recipe: here, too, every image is seen many times
        frozen_stages=1,  # edges and textures are the same in any photograph, and few images would only blur them
    ),
)
