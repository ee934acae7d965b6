"""Swin backbones: images in, one feature map per stage out."""

from swin_dense.backbones.swin import FeatureSpec, SwinTransformer
from swin_dense.backbones.variants import VARIANTS, SwinVariant, create_backbone

__all__ = ["VARIANTS", "FeatureSpec", "SwinTransformer", "SwinVariant", "create_backbone"]
