"""Window plans: which token goes where when a grid of tokens is cut into regular and shifted windows.

LayerNorm, linear layers and the MLP treat tokens one by one, so tokens can stay in window order through a whole stage.
Changing between regular and shifted windows is then one permutation of rows, where the usual form pads, rolls,
partitions, reverses, rolls back and crops in every block. The padding that fills the last windows exists inside
attention alone. Everything here works in any number of dimensions.

Shapes: B images; a grid of (H, W) or (T, H, W) tokens, padded at its end to P tokens in whole windows; W windows of
N tokens each; C channels. The R real tokens of all images are the rows (R, C), in window order: sorted by window, then
by image, then by place in the window, so that a run of windows is contiguous for all images at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from swin_dense.backbones.rows import Permutation, place_rows, take_rows

MASKED = -100.0
"""Added to the score of two tokens that only the cyclic shift made neighbours: the official code's value, on which
published weights depend."""

CACHED_PLANS = 32
"""Plans kept at most: eight batch shapes of a four-stage backbone. Those of one shape take eight megabytes per image
at 800x1344 pixels."""

GROUP_TOKENS = 4096
"""Tokens computed together on a CPU: few enough that temporaries reuse memory already mapped instead of fresh pages,
and enough that the cost of starting each operation does not count."""


@dataclass(frozen=True)
class Partition:
    """One way of cutting the padded grid into windows: those that need a mask last, and among equals the padded last.

    Attributes:
        shape: (W, B, N).
        mask: (boundary windows, N, N) float32, `MASKED` between tokens that only the cyclic shift made neighbours and 0
            elsewhere. It belongs to the last windows; all windows before them need none.
        places: (R,) int64, ascending, where each row lies among the W x B x N tokens of the windows; None where no
            token is padding.
    """

    shape: tuple[int, int, int]
    mask: Tensor
    places: Tensor | None

    def fill(self, rows: Tensor) -> Tensor:
        """Puts rows (R, C) into the windows, (W, B, N, C), whose padding is zero."""
        if self.places is not None:
            rows = place_rows(rows, self.places, math.prod(self.shape))
        return rows.view(*self.shape, -1)

    def take(self, windows: Tensor) -> Tensor:
        """Takes the rows (R, C) out of the windows (W, B, N, C) again and leaves their padding behind."""
        tokens = windows.flatten(0, 2)
        return tokens if self.places is None else take_rows(tokens, self.places)

    def groups(self) -> Iterator[tuple[slice, Partition]]:
        """Splits the partition as `window_groups` does.

        Yields:
            The rows in a group of windows, and the partition of these rows into these windows.
        """
        _, batch, length = self.shape
        for group, mask in window_groups(self.shape, self.mask):
            start, stop = group.start * batch * length, group.stop * batch * length
            rows, places = slice(start, stop), None
            if self.places is not None:
                rows = slice(*torch.searchsorted(self.places, torch.tensor([start, stop])).tolist())
                if rows.stop - rows.start < stop - start:
                    places = self.places[rows] - start
            yield rows, Partition((group.stop - group.start, batch, length), mask, places)


@dataclass(frozen=True)
class WindowPlan:
    """Where the tokens of a batch of equal grids lie in regular and in shifted windows.

    Attributes:
        partitions: The regular and the shifted windows, in this order.
        from_grid: For each partition, the permutation of rows from raster order, (B, *grid), to its window order.
        shift: The permutation of rows from regular to shifted windows.
    """

    partitions: tuple[Partition, Partition]
    from_grid: tuple[Permutation, Permutation]
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
        is_padding = _regions(grid, padded, device).flatten() > 0

        # Only the last window along a shifted dimension holds tokens from both ends of the grid.
        edges = [size - step for size, step in zip(padded, shift, strict=True)]
        regions = _cut(_regions(edges, padded, device), window)
        wrapped = (regions != regions[:, :1]).any(1)
        interior = math.prod(size // side - (step > 0) for size, side, step in zip(padded, window, shift, strict=True))

        regular = regular[is_padding[regular].any(1).int().argsort(stable=True)]
        order = (2 * wrapped + is_padding[shifted].any(1)).argsort(stable=True)
        regions, shifted = regions[order[interior:]], shifted[order]
        mask = MASKED * (regions[:, :, None] != regions[:, None, :]).float()

        from_grid, partitions = [], []
        for windows, window_mask in ((regular, mask[:0]), (shifted, mask)):
            places = _places(~is_padding[windows], batch, batch * math.prod(grid))
            from_grid.append(_from_grid(windows, is_padding, places, batch))
            shape = (len(windows), batch, math.prod(window))
            partitions.append(Partition(shape, window_mask, places if padded != grid else None))
        to_regular, to_shifted = from_grid
        shift_rows = Permutation(
            index=to_regular.inverse_index[to_shifted.index], inverse_index=to_shifted.inverse_index[to_regular.index]
        )
        return WindowPlan((partitions[0], partitions[1]), (to_regular, to_shifted), shift_rows)


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


def _places(is_real: Tensor, batch: int, rows: int) -> Tensor:
    """Where the real tokens of windows (W, N) lie among the (W, B, N) tokens of a batch; there are `rows` of them."""
    of_batch = is_real[:, None, :].expand(-1, batch, -1).flatten()
    # Unlike that of `nonzero`, the size of a sort does not depend on values: no wait for a GPU, and tracers can follow.
    return (~of_batch).int().argsort(stable=True)[:rows]


def _from_grid(windows: Tensor, is_padding: Tensor, places: Tensor, batch: int) -> Permutation:
    """The permutation to the order of windows, given as the padded positions (W, N) of their tokens."""
    raster = (~is_padding).cumsum(0) - 1
    images = torch.arange(batch, device=windows.device)[:, None] * (len(places) // batch)
    index = (raster[windows][:, None, :] + images).flatten()[places]
    return Permutation(index, inverse_index=index.argsort())


def window_groups(shape: Sequence[int], mask: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Groups consecutive windows so that what a group computes stays in the processor's cache.

    Args:
        shape: (W, B, N, ...) of tokens in window order.
        mask: (boundary windows, N, N), the mask of the last windows.

    Yields:
        The windows of a group, and their part of the mask, which holds no window where the group needs none.
    """
    windows, batch, length = shape[:3]
    interior = windows - len(mask)
    size = max(1, GROUP_TOKENS // (batch * length))
    for start in range(0, interior, size):
        yield slice(start, min(start + size, interior)), mask[:0]
    for start in range(interior, windows, size):
        stop = min(start + size, windows)
        yield slice(start, stop), mask[start - interior : stop - interior]
