"""Where tokens learn their place: the relative position bias inside windows, and the absolute position embedding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

LARGEST_OFFSET = 8
"""What the largest offset in a window is scaled to before logarithms are taken, in the official code of Swin V2."""


def relative_position_count(window: Sequence[int]) -> int:
    """Number of different offsets between two tokens of a window: (2M - 1) per dimension."""
    return math.prod(2 * side - 1 for side in window)


def relative_position_bias(table: Tensor, window: Sequence[int], shown: Sequence[int] | None = None) -> Tensor:
    """The bias (heads, N, N) of attention inside a window (Swin paper, equation 4), from a table (offsets, heads).

    The table is that of `window`; `shown` is a smaller window of N tokens, whose offsets are the middle of the table.
    """
    shown = window if shown is None else shown
    # As in the window plan: stand-in tensors of a tracer stay out of the cache.
    is_real = type(table.data) is Tensor and not torch.compiler.is_compiling()
    index_of = _cached_index if is_real else _build_index
    length = math.prod(shown)
    index = index_of(tuple(window), tuple(shown), table.device)
    return table.t().index_select(1, index).view(-1, length, length)


def _build_index(window: tuple[int, ...], shown: tuple[int, ...], device: torch.device) -> Tensor:
    """Row of the table of `window` for each (query, key) pair of the window shown, flattened to (N * N,)."""
    with torch.inference_mode(False):
        sides = [torch.arange(side, device=device) for side in shown]
        coordinates = torch.stack(torch.meshgrid(*sides, indexing="ij")).flatten(1)
        index = torch.zeros((), dtype=torch.int64, device=device)
        for side, coordinate in zip(window, coordinates, strict=True):
            offset = coordinate[:, None] - coordinate[None, :] + side - 1
            index = index * (2 * side - 1) + offset
        return index.flatten()


_cached_index = lru_cache(maxsize=32)(_build_index)


def log_spaced_offsets(window: Sequence[int], pretrained_window: int, like: Tensor) -> Tensor:
    """The log-spaced offsets (offsets, dimensions) between two tokens of a window (Swin V2 paper, equation 4).

    They are in the order of the table that `relative_position_bias` takes, on the device and in the type of `like`. In
    windows of `pretrained_window` tokens a side the largest offset is `LARGEST_OFFSET` before its logarithm is taken.
    """
    is_real = type(like.data) is Tensor and not torch.compiler.is_compiling()
    offsets_of = _cached_offsets if is_real else _build_offsets
    return offsets_of(tuple(window), pretrained_window, like.device, like.dtype)


def _build_offsets(window: tuple[int, ...], pretrained_window: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        sides = [torch.arange(1 - side, side, device=device, dtype=torch.float32) for side in window]
        offsets = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1).flatten(0, -2)
        offsets = offsets / max(pretrained_window - 1, 1) * LARGEST_OFFSET
        return (offsets.sign() * (offsets.abs() + 1).log2() / math.log2(LARGEST_OFFSET)).to(dtype)


_cached_offsets = lru_cache(maxsize=32)(_build_offsets)


def resized_position_embedding(embedding: Tensor, grid: Sequence[int]) -> Tensor:
    """An absolute position embedding (1, C, H, W) as (1, *grid, C), bicubic as in the official dense code."""
    return functional.interpolate(embedding, size=tuple(grid), mode="bicubic").permute(0, 2, 3, 1)
