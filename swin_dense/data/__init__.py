"""Data sets, transforms and loaders. The data modules are imported when they are asked for: Lightning takes seconds."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swin_dense.data.ade20k import ADE20KDataModule
    from swin_dense.data.coco import CocoDataModule
    from swin_dense.data.imagenet import ImageNetDataModule
    from swin_dense.data.video import VideoDataModule

__all__ = ["ADE20KDataModule", "CocoDataModule", "ImageNetDataModule", "VideoDataModule"]

_MODULES = {
    "ADE20KDataModule": "swin_dense.data.ade20k",
    "CocoDataModule": "swin_dense.data.coco",
    "ImageNetDataModule": "swin_dense.data.imagenet",
    "VideoDataModule": "swin_dense.data.video",
}


def __getattr__(name: str) -> Any:
    """Imports a data module at its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
