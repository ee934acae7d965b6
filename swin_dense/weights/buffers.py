"""Buffers of the classification form that are computed from its parameters: some formats hold them, others do not."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

import torch
from torch import Tensor

from swin_dense.backbones.position import relative_position_bias
from swin_dense.backbones.windows import MASKED
from swin_dense.errors import WeightsError
from swin_dense.weights.formats import Converted, Table
from swin_dense.weights.formats.table import Name

_TABLE = Name("layers.{i}.blocks.{j}.attn.relative_position_bias_table")
_INDEX = Name("layers.{i}.blocks.{j}.attn.relative_position_index")
_MASK = Name("layers.{i}.blocks.{j}.attn_mask")

_WINDOWS_OF_FIRST_MAP = 8
"""Windows along a side of the first map, in every published classifier: 224 pixels with windows of 7, 384 with 12."""


def absent_buffers(backbone: Mapping[str, Converted], form: Table) -> dict[str, Tensor]:
    """Computes the buffers that a form holds and a backbone lacks.

    Args:
        backbone: Tensors by official name.
        form: The table that will be written.

    Returns:
        Buffers by official name: relative position indices, and the attention masks of shifted windows for the image
        size of the absolute position embedding, or else for the one that all published classifiers have.

    Raises:
        WeightsError: A bias table is not that of a square window.
    """
    buffers: dict[str, Tensor] = {}
    for key, item in backbone.items():
        found = _TABLE.match(key)
        if found is None:
            continue
        window = _window_side(key, item.tensor)
        stage, block = found[0]["i"], found[0]["j"]
        index, mask = (name.fill(found[0], "") for name in (_INDEX, _MASK))
        if index not in backbone and form.write(index) is not None:
            buffers[index] = relative_position_index(window)
        side = _first_side(backbone, window) >> stage
        is_shifted = block % 2 == 1 and side > window and side % window == 0
        if is_shifted and mask not in backbone and form.write(mask) is not None:
            buffers[mask] = shifted_window_mask(side, window).to(item.tensor.dtype)
    return buffers


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens of a square window, (N, N) with N = window * window."""
    rows = torch.arange((2 * window - 1) ** 2)[:, None]
    return relative_position_bias(rows, (window, window))[0].clone()


def shifted_window_mask(side: int, window: int) -> Tensor:
    """What is added to the attention of shifted windows, (windows, N, N): -100 between tokens that were no neighbours.

    Args:
        side: Tokens along a side of the map, whole windows.
        window: Tokens along a side of a window; the shift is half of that.
    """
    positions = torch.arange(side)
    part = (positions >= side - window).long() + (positions >= side - window // 2)
    count = side // window
    regions = (3 * part[:, None] + part[None, :]).reshape(count, window, count, window)
    regions = regions.transpose(1, 2).reshape(count * count, window * window)
    return torch.where(regions[:, :, None] == regions[:, None, :], 0.0, MASKED)


def _window_side(name: str, table: Tensor) -> int:
    offsets = isqrt(table.shape[0]) if table.ndim == 2 else 0
    if offsets % 2 == 0 or offsets * offsets != table.shape[0]:
        raise WeightsError(f"{name} {tuple(table.shape)} is not the bias table of a square window")
    return (offsets + 1) // 2


def _first_side(backbone: Mapping[str, Converted], window: int) -> int:
    embedding = backbone.get("absolute_pos_embed")
    if embedding is None or embedding.tensor.ndim != 4:
        return _WINDOWS_OF_FIRST_MAP * window
    return embedding.tensor.shape[-1]
