"""Features to disk, and back. Parts are imported when they are asked for: not each of them needs the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swin_dense.export.features import export_features
    from swin_dense.export.store import FeatureStore

__all__ = ["FeatureStore", "export_features"]


def __getattr__(name: str) -> Any:
    """Imports a part at its first use (PEP 562)."""
    if name == "export_features":
        from swin_dense.export.features import export_features

        return export_features
    if name == "FeatureStore":
        from swin_dense.export.store import FeatureStore

        return FeatureStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
