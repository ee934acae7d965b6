"""Weights from any known library into a model, and out into a file."""

from swin_dense.weights.convert import convert_state_dict, convert_weights
from swin_dense.weights.files import save_weights
from swin_dense.weights.formats import FORMATS
from swin_dense.weights.hub import fetch_weights, verify_weights
from swin_dense.weights.load import load_weights
from swin_dense.weights.report import ConversionReport, LoadReport

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
