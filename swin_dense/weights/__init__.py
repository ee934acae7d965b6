"""Weights from any known library into a model, and out into a file."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from swin_dense.weights.files import save_weights
from swin_dense.weights.load import load_weights
from swin_dense.weights.report import ConversionReport, LoadReport

if TYPE_CHECKING:
    from swin_dense.weights.convert import convert_state_dict, convert_weights
    from swin_dense.weights.formats import FORMATS
    from swin_dense.weights.hub import fetch_weights, verify_weights

__all__ = [
    "FORMATS",
    "ConversionReport",
    "LoadReport",
    "convert_state_dict",
    "convert_weights",
    "fetch_weights",
    "load_weights",
    "save_weights",
    "verify_weights",
]

_LATER = {
    "FORMATS": "formats",
    "convert_state_dict": "convert",
    "convert_weights": "convert",
    "fetch_weights": "hub",
    "verify_weights": "hub",
}


def __getattr__(name: str) -> Any:
    """Imports what loading does not need at its first use (PEP 562)."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"swin_dense.weights.{_LATER[name]}"), name)
