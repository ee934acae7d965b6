"""Weights from any known library into a model, and out into a file."""

from swin_dense.weights.files import save_weights
from swin_dense.weights.formats import FORMATS
from swin_dense.weights.load import load_weights
from swin_dense.weights.report import LoadReport

__all__ = ["FORMATS", "LoadReport", "load_weights", "save_weights"]
