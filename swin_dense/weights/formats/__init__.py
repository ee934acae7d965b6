"""The weight formats and how one is told from another."""

from __future__ import annotations

from swin_dense.weights.formats.detect import FORMATS, Layout, detect_layout, format_named, root_of
from swin_dense.weights.formats.format import Format
from swin_dense.weights.formats.table import Converted, Table

__all__ = ["FORMATS", "Converted", "Format", "Layout", "Table", "detect_layout", "format_named", "root_of"]
