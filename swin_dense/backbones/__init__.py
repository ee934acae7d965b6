"""Swin backbones: images in, one feature map per stage out; and classifiers: images in, scores of classes out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from swin_dense.backbones.swin import FeatureSpec, SwinTransformer
from swin_dense.backbones.variants import VARIANTS, SwinVariant, create_backbone

if TYPE_CHECKING:
    from swin_dense.backbones.classifier import SwinClassifier, create_classifier

__all__ = [
    "VARIANTS",
    "FeatureSpec",
    "SwinClassifier",
    "SwinTransformer",
    "SwinVariant",
    "create_backbone",
    "create_classifier",
]


def __getattr__(name: str) -> Any:
    """A classifier, which is imported when it is asked for (PEP 562)."""
    if name not in ("SwinClassifier", "create_classifier"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("swin_dense.backbones.classifier"), name)
