"""Features to disk, and back. Parts are imported when they are asked for: not each of them needs the others."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swin_dense.export.features import export_features
    from swin_dense.export.store import FeatureStore

__all__ = ["FeatureStore", "export_features"]

_MODULES = {"FeatureStore": "swin_dense.export.store", "export_features": "swin_dense.export.features"}


def __getattr__(name: str) -> Any:
    """Imports a part at its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
