"""Swin backbones: images in, one feature map per stage out; and classifiers: images in, scores of classes out."""

from swin_dense.backbones.classifier import SwinClassifier, create_classifier
from swin_dense.backbones.swin import FeatureSpec, SwinTransformer
from swin_dense.backbones.variants import VARIANTS, SwinVariant, create_backbone

__all__ = [
    "VARIANTS",
    "FeatureSpec",
    "SwinClassifier",
    "SwinTransformer",
    "SwinVariant",
    "create_backbone",
    "create_classifier",
]
