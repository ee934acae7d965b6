"""Resizes what depends on the window or the image size, as the official code does: bicubic, corners not aligned."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from swin_dense.errors import WeightsError


def resize_bias_table(table: Tensor, length: int) -> Tensor:
    """Resizes a relative position bias table to another window.

    Args:
        table: (L, heads) with L = (2M - 1)^2 for windows of M x M tokens.
        length: The wanted L.

    Returns:
        (length, heads); `table` itself where L is the same.

    Raises:
        WeightsError: A length is not that of a square window.
    """
    if table.shape[0] == length:
        return table
    old, new = _side(table.shape[0]), _side(length)
    return _bicubic(table.T.reshape(1, -1, old, old), (new, new)).reshape(-1, length).T.contiguous()


def resize_position_embedding(embedding: Tensor, size: torch.Size) -> Tensor:
    """Resizes an absolute position embedding to another image size.

    Args:
        embedding: (1, C, H, W).
        size: The wanted H and W, in patches.

    Returns:
        (1, C, *size); `embedding` itself where the size is the same.
    """
    return embedding if embedding.shape[2:] == size else _bicubic(embedding, (size[0], size[1]))


def _side(area: int) -> int:
    side = isqrt(area)
    if side == 0 or side * side != area:
        raise WeightsError(f"cannot resize {area} positions: they do not form a square")
    return side


def _bicubic(grid: Tensor, size: tuple[int, int]) -> Tensor:
    # In half precision the interpolation weights would be rounded as well.
    values = grid if grid.dtype in (torch.float32, torch.float64) else grid.float()
    return interpolate(values, size=size, mode="bicubic", align_corners=False).to(grid.dtype)
