"""The weight formats and how one is told from another."""

from swin_dense.weights.formats.detect import FORMATS, Layout, detect_layout, root_of
from swin_dense.weights.formats.table import Converted, Format

__all__ = ["FORMATS", "Converted", "Format", "Layout", "detect_layout", "root_of"]
