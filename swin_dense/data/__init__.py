"""Data sets, transforms and loaders. The data modules are imported when they are asked for: Lightning takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swin_dense.data.datamodules import CocoDataModule

__all__ = ["CocoDataModule"]


def __getattr__(name: str) -> Any:
    """Imports a data module at its first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from swin_dense.data import datamodules

    return getattr(datamodules, name)
