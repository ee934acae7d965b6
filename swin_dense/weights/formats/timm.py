"""timm: the official names, but patch merging opens a stage instead of closing the one before it."""

from __future__ import annotations

from swin_dense.weights.formats.official import NAMES
from swin_dense.weights.formats.table import Format, Row

# No output norms: timm's feature maps are not normalised.
_RENAMED = {
    "layers.{i}.downsample.norm": "layers.{i+1}.downsample.norm",
    "layers.{i}.downsample.reduction": "layers.{i+1}.downsample.reduction",
    "head": "head.fc",
}
_ROWS = [Row(_RENAMED.get(name, name), name) for name in NAMES if name != "norm{i}"]

# `features_only=True` flattens `layers.0` to `layers_0`.
_FLATTENED = [
    Row(theirs.replace("layers.", "layers_", 1), official)
    for theirs, official, _ in _ROWS
    if isinstance(theirs, str) and theirs.startswith("layers.")
]

TIMM = Format("timm", [*_ROWS, *_FLATTENED])
