"""timm: the official names, but patch merging opens a stage instead of closing the one before it."""

from __future__ import annotations

from swin_dense.weights.formats.format import Format
from swin_dense.weights.formats.official import AS_TOKENS, BODY, CLASSIFIER, INDEX, MASK, POSITIONS, rows
from swin_dense.weights.formats.table import Row, Table

_RENAMED = {
    "layers.{i}.downsample.norm": "layers.{i+1}.downsample.norm",
    "layers.{i}.downsample.reduction": "layers.{i+1}.downsample.reduction",
    "head": "head.fc",
}
# No output norms: timm's feature maps are not normalised.
_ROWS = [Row(_RENAMED.get(name, name), name) for name in (*BODY, *CLASSIFIER)]

# Older versions had these too.
_ONCE = [Row(POSITIONS, POSITIONS, AS_TOKENS), *rows(INDEX, MASK)]

# `features_only=True` flattens `layers.0` to `layers_0`.
_FLATTENED = [
    Row(theirs.replace("layers.", "layers_", 1), official)
    for theirs, official, _ in _ROWS
    if isinstance(theirs, str) and theirs.startswith("layers.")
]

TIMM = Format("timm", reading=Table([*_ROWS, *_ONCE, *_FLATTENED]), forms=(Table(_ROWS),))
