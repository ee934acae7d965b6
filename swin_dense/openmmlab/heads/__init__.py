"""Necks, heads and losses that mmdet lacks, registered in it like its own."""

from mmdet.registry import MODELS

from swin_dense.openmmlab.heads.bifpn import BiFPN
from swin_dense.openmmlab.heads.condconv_masks import CondConvMaskHead
from swin_dense.openmmlab.heads.global_attention import GlobalAttention
from swin_dense.openmmlab.heads.reppoints_v2 import RepPointsV2Head
from swin_dense.openmmlab.heads.reppoints_v2_loss import ForegroundFocalLoss, InclusiveGIoULoss

PARTS = (BiFPN, CondConvMaskHead, ForegroundFocalLoss, GlobalAttention, InclusiveGIoULoss, RepPointsV2Head)

for part in PARTS:
    MODELS.register_module(module=part)
