"""Window plans: which token goes where when a grid of tokens is cut into regular and shifted windows.

LayerNorm, linear layers and the MLP treat tokens one by one, so tokens can stay in window order through a whole stage.
Changing between regular and shifted windows is then one permutation of rows, where the usual form pads, rolls,
partitions, reverses, rolls back and crops in every block. Everything here works in any number of dimensions.

Shapes: B images; a grid of (H, W) or (T, H, W) tokens, padded at its end to P tokens in whole windows; W windows of
N tokens each; C channels. Rows in window order are laid out (W, B, N, C): window first, image second, so that a run of
windows is contiguous for all images at once, and the permutation of rows is one gather.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MASKED = -100.0
"""Added to the score of two tokens that only the cyclic shift made neighbours: the official code's value, on which
published weights depend."""

CACHED_PLANS = 32
"""Plans kept at most: eight batch shapes of a four-stage backbone, a few megabytes each at detection sizes."""

GROUP_TOKENS = 4096
"""Tokens computed together on a CPU: few enough that temporaries reuse memory already mapped instead of fresh pages,
and enough that the cost of starting each operation does not count."""


@dataclass(frozen=True)
class Permutation:
    """A reordering of rows whose gradient is a gather as well, by the inverse.

    Attributes:
        index: (rows,) int64, the source row of each target row.
        inverse_index: (rows,) int64, the target row of each source row.
        shape: Shape of the target without channels.
        source_shape: Shape of the source without channels.
    """

    index: Tensor
    inverse_index: Tensor
    shape: tuple[int, ...]
    source_shape: tuple[int, ...]

    @property
    def inverse(self) -> Permutation:
        """The permutation that undoes this one."""
        return Permutation(self.inverse_index, self.index, self.source_shape, self.shape)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Reorders tokens of shape (*source_shape, C) into (*shape, C)."""
        channels = tokens.shape[-1]
        rows: Tensor = _PermuteRows.apply(tokens.reshape(-1, channels), self.index, self.inverse_index)
        return rows.view(*self.shape, channels)


class _PermuteRows(torch.autograd.Function):
    """`index_select` whose backward is a gather too: the built-in backward is a scatter, several times slower."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse_index: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_index)
        return rows.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inverse_index,) = ctx.saved_tensors
        return gradient.index_select(0, inverse_index), None, None


@dataclass(frozen=True)
class Partition:
    """One way of cutting the padded grid into windows, interior windows first.

    Attributes:
        from_grid: Permutation from the padded grid (B, P) to windows (W, B, N).
        padding: (W, 1, N, 1) bool, true where a row is padding; None where nothing is padded.
        mask: (boundary windows, N, N) float32, `MASKED` between tokens that only the cyclic shift made neighbours and 0
            elsewhere. It belongs to the last windows; all windows before them need none.
    """

    from_grid: Permutation
    padding: Tensor | None
    mask: Tensor


@dataclass(frozen=True)
class WindowPlan:
    """Where the tokens of a batch of equal grids lie in regular and in shifted windows.

    Attributes:
        grid: Tokens per dimension, before padding.
        padded: Tokens per dimension, in whole windows.
        partitions: The regular and the shifted windows, in this order.
        shift: Permutation from regular to shifted windows.
    """

    grid: tuple[int, ...]
    padded: tuple[int, ...]
    partitions: tuple[Partition, ...]
    shift: Permutation


def window_plan(tokens: Tensor, window: Sequence[int], shift: Sequence[int]) -> WindowPlan:
    """The plan for a batch of token grids, from the cache where it is known.

    Args:
        tokens: (B, *grid, C); only its shape and device count.
        window: Window size per dimension, in tokens.
        shift: Cyclic shift of the shifted windows per dimension, in tokens.

    Returns:
        A plan whose tensors lie on the device of `tokens`.
    """
    # A tracer's stand-in tensors must neither enter the cache nor meet real ones from it.
    build = _cached_plan if type(tokens) is Tensor else _build_plan
    batch, *grid, _ = tokens.shape
    return build(batch, tuple(grid), tuple(window), tuple(shift), tokens.device)


def _build_plan(
    batch: int, grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
) -> WindowPlan:
    # Tensors made in inference mode could never enter autograd, and the cache serves both.
    with torch.inference_mode(False):
        padded = tuple(math.ceil(size / side) * side for size, side in zip(grid, window, strict=True))
        positions = torch.arange(math.prod(padded), device=device).view(padded)
        rolled = positions.roll([-step for step in shift], tuple(range(len(shift))))
        regular, shifted = _cut(positions, window), _cut(rolled, window)

        # Only the last window along a shifted dimension holds tokens from both ends of the grid.
        regions = _cut(
            _regions([size - step for size, step in zip(padded, shift, strict=True)], padded, device), window
        )
        wrapped = (regions != regions[:, :1]).any(1)
        order = wrapped.argsort(stable=True)
        interior = math.prod(size // side - (step > 0) for size, side, step in zip(padded, window, shift, strict=True))
        regions, shifted = regions[order[interior:]], shifted[order]
        mask = MASKED * (regions[:, :, None] != regions[:, None, :]).float()

        is_padding = _regions(grid, padded, device).flatten() > 0
        raster = positions.view(1, -1)
        partitions = tuple(
            Partition(
                from_grid=_permutation(raster, windows, batch),
                padding=is_padding[windows][:, None, :, None] if padded != grid else None,
                mask=window_mask,
            )
            for windows, window_mask in ((regular, mask[:0]), (shifted, mask))
        )
        return WindowPlan(grid, padded, partitions, _permutation(regular, shifted, batch))


_cached_plan = lru_cache(maxsize=CACHED_PLANS)(_build_plan)


def _regions(edges: Sequence[int], sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Numbers the boxes that one cut per dimension makes of a grid: 0 before every edge, another number beyond each."""
    regions = torch.zeros(sizes, dtype=torch.int64, device=device)
    for dimension, (edge, size) in enumerate(zip(edges, sizes, strict=True)):
        beyond = torch.arange(size, device=device) >= edge
        shape = [1] * len(sizes)
        shape[dimension] = size
        regions = regions + (beyond.view(shape).long() << dimension)
    return regions


def _cut(values: Tensor, window: tuple[int, ...]) -> Tensor:
    """Cuts a grid of whole windows into (W, N)."""
    split = [part for size, side in zip(values.shape, window, strict=True) for part in (size // side, side)]
    dimensions = range(2 * values.ndim)
    return values.view(split).permute(*dimensions[::2], *dimensions[1::2]).reshape(-1, math.prod(window))


def _permutation(source: Tensor, target: Tensor, batch: int) -> Permutation:
    """The permutation between two arrangements, each the (W, N) grid positions of its tokens for one image."""
    index, inverse_index = _rows_of(source, target, batch), _rows_of(target, source, batch)
    return Permutation(index, inverse_index, _shape(target, batch), _shape(source, batch))


def _rows_of(source: Tensor, target: Tensor, batch: int) -> Tensor:
    """Source row (window, image, token) of each target row; both arrangements hold every position once."""
    windows, length = source.shape
    first_image = torch.arange(windows, device=source.device)[:, None] * (batch * length)
    rows = (first_image + torch.arange(length, device=source.device)).flatten()
    row_of_position = torch.empty_like(rows)
    row_of_position[source.flatten()] = rows
    images = torch.arange(batch, device=source.device) * length
    return (row_of_position[target][:, None, :] + images[:, None]).flatten()


def _shape(arrangement: Tensor, batch: int) -> tuple[int, int, int]:
    windows, length = arrangement.shape
    return windows, batch, length


def window_groups(tokens: Tensor, mask: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Groups consecutive windows so that what a group computes stays in the processor's cache.

    Args:
        tokens: (W, B, N, ...) in window order; only its shape counts.
        mask: (boundary windows, N, N), the mask of the last windows.

    Yields:
        The windows of a group, and their part of the mask, which holds no window where the group needs none.
    """
    windows, batch, length = tokens.shape[:3]
    interior = windows - len(mask)
    size = max(1, GROUP_TOKENS // (batch * length))
    for start in range(0, interior, size):
        yield slice(start, min(start + size, interior)), mask[:0]
    for start in range(interior, windows, size):
        yield slice(start, start + size), mask[start - interior : start - interior + size]
