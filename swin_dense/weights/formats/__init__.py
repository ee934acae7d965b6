"""The weight formats, as tables, and how they are detected."""

from __future__ import annotations

from swin_dense.weights.formats.detect import FORMATS, Parts, detect_layout, format_named, root_of, take_apart
from swin_dense.weights.formats.table import Converted, Format, Table

__all__ = ["FORMATS", "Converted", "Format", "Parts", "Table", "detect_layout", "format_named", "root_of", "take_apart"]
