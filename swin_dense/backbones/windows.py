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
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MASKED = -100.0
"""Added to the score of two tokens that only the cyclic shift made neighbours: the official code's value, on which
published weights depend."""

CACHE_BYTES = 256 * 2**20
"""Size of the plans kept at most. Those of a four-stage backbone take eight megabytes per image at 800x1344 pixels."""

GROUP_TOKENS = 4096
"""Tokens computed together on a CPU: few enough that temporaries reuse memory already mapped instead of fresh pages,
and enough that the cost of starting each operation does not count."""

PlanKey = tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...], torch.device]


@dataclass(frozen=True)
class Permutation:
    """A reordering of rows, whose gradient is a gather too: the built-in one adds up in a slower scatter."""

    index: Tensor  # (R,) int64, the source row of each target row
    inverse_index: Tensor  # (R,) int64, the target row of each source row

    @property
    def inverse(self) -> Permutation:
        """The permutation that undoes this one."""
        return Permutation(self.inverse_index, self.index)

    def __call__(self, rows: Tensor) -> Tensor:
        """Reorders rows (R, C)."""
        permuted: Tensor = _PermuteRows.apply(rows, self.index, self.inverse_index)
        return permuted


@dataclass(frozen=True)
class Partition:
    """One way of cutting the padded grid into windows: those that need a mask last, and among equals the padded last.

    The mask (boundary windows, N, N), `MASKED` between tokens that only the cyclic shift made neighbours and 0
    elsewhere, belongs to the last windows; all windows before them need none. `places` (R,), int64 and ascending, are
    those of the rows among the W x B x N tokens of the windows.
    """

    shape: tuple[int, int, int]  # (W, B, N)
    mask: Tensor
    places: Tensor | None  # None where no token is padding
    window: tuple[int, ...]  # tokens per dimension, N together

    def fill(self, rows: Tensor) -> Tensor:
        """Puts rows (R, C) into the windows, (W, B, N, C), whose padding is zero."""
        if self.places is not None:
            rows = _PlaceRows.apply(rows, self.places, math.prod(self.shape))
        return rows.view(*self.shape, -1)

    def take(self, windows: Tensor) -> Tensor:
        """Takes the rows (R, C) out of the windows (W, B, N, C) again and leaves their padding behind."""
        rows: Tensor = windows.flatten(0, 2)
        return rows if self.places is None else _TakeRows.apply(rows, self.places)

    def groups(self) -> Iterator[tuple[slice, Partition]]:
        """Yields the rows in each group of `window_groups`, and the partition of these rows into its windows."""
        _, batch, length = self.shape
        for group, mask in window_groups(self.shape, self.mask):
            start, stop = group.start * batch * length, group.stop * batch * length
            rows, places = slice(start, stop), None
            if self.places is not None:
                rows = slice(*torch.searchsorted(self.places, torch.tensor([start, stop])).tolist())
                if rows.stop - rows.start < stop - start:
                    places = self.places[rows] - start
            yield rows, Partition((group.stop - group.start, batch, length), mask, places, self.window)


@dataclass(frozen=True)
class WindowPlan:
    """Where the tokens of a batch of equal grids lie in regular and in shifted windows."""

    partitions: tuple[Partition, Partition]  # regular windows, shifted windows
    from_grid: tuple[Permutation, Permutation]  # from raster order, (B, *grid), to the order of either
    shift: Permutation  # from regular to shifted windows

    @property
    def nbytes(self) -> int:
        """Size of all tensors."""
        tensors = [part for one in (*self.from_grid, self.shift) for part in (one.index, one.inverse_index)]
        tensors += [part for one in self.partitions for part in (one.mask, one.places) if part is not None]
        return sum(tensor.nbytes for tensor in tensors)


class Unmoved:
    """The permutation that leaves rows where they are."""

    @property
    def inverse(self) -> Unmoved:
        """Itself."""
        return self

    def __call__(self, rows: Tensor) -> Tensor:
        """Returns the rows."""
        return rows


class StillPlan:
    """A `WindowPlan` in which no row moves: its partitions find the tokens of their windows in raster order.

    It is no record with defaults, which PyTorch 2.6 cannot compile.
    """

    def __init__(self, partitions: tuple[Any, Any]) -> None:
        """Takes regular and shifted windows."""
        self.partitions = partitions
        self.from_grid = Unmoved(), Unmoved()
        self.shift = Unmoved()


class PlanCache:
    """The plans used last, of at most `CACHE_BYTES` together."""

    def __init__(self) -> None:
        """Starts empty."""
        self.plans: OrderedDict[PlanKey, WindowPlan] = OrderedDict()
        self.nbytes = 0
        self._lock = Lock()

    def get(self, key: PlanKey) -> WindowPlan:
        """The plan for a key, built where it is not known."""
        with self._lock:
            plan = self.plans.get(key)
            if plan is None:
                plan = self.plans[key] = _build_plan(*key)
                self.nbytes += plan.nbytes
            self.plans.move_to_end(key)
            while self.nbytes > CACHE_BYTES:
                self.nbytes -= self.plans.popitem(last=False)[1].nbytes
            return plan

    def clear(self) -> None:
        """Drops every plan."""
        with self._lock:
            self.plans.clear()
            self.nbytes = 0


plan_cache = PlanCache()


def fitted_window(grid: Sequence[int], window: Sequence[int]) -> tuple[list[int], list[int]]:
    """Window and shift of classifiers: along a dimension of one window, the window is the grid and nothing shifts."""
    sides = [int(min(size, side)) for size, side in zip(grid, window, strict=True)]
    return sides, [side // 2 if size > side else 0 for size, side in zip(grid, window, strict=True)]


def window_plan(tokens: Tensor, window: Sequence[int], shift: Sequence[int]) -> WindowPlan:
    """The plan for a batch of token grids (B, *grid, C), from the cache where it is known; sizes are in tokens."""
    batch, *grid, _ = tokens.shape
    key = batch, tuple(grid), tuple(window), tuple(shift), tokens.device
    # A tracer's stand-in tensors must neither enter the cache nor meet real ones from it.
    if type(tokens) is not Tensor:
        return _build_plan(*key)
    return plan_cache.get(key)


def _build_plan(
    batch: int, grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
) -> WindowPlan:
    """Builds a plan; no size depends on values, so that no GPU is waited for and tracers can follow."""
    # Tensors made in inference mode could never enter autograd, and the cache serves both.
    with torch.inference_mode(False):
        padded = tuple(math.ceil(size / side) * side for size, side in zip(grid, window, strict=True))
        positions = torch.arange(math.prod(padded), device=device).view(padded)
        rolled = positions.roll([-step for step in shift], tuple(range(len(shift))))
        regular, shifted = _cut(positions, window), _cut(rolled, window)
        is_padding = _regions(grid, padded, device).flatten() > 0

        # Only the last window along a shifted dimension holds tokens from both ends of the grid.
        regions = shift_regions(padded, window, shift, device)
        wrapped = (regions != regions[:, :1]).any(1)
        counts = [size // side - (step > 0) for size, side, step in zip(padded, window, shift, strict=True)]
        interior = math.prod(counts)

        if padded != grid:
            regular = regular[is_padding[regular].any(1).int().argsort(stable=True)]
        order = (2 * wrapped + is_padding[shifted].any(1)).argsort(stable=True)
        regions, shifted = regions[order[interior:]], shifted[order]
        mask = region_mask(regions)

        raster = (~is_padding).cumsum(0) - 1
        numbers = torch.arange(batch * math.prod(grid), device=device)
        images = numbers[:: math.prod(grid), None]
        from_grid, partitions = [], []
        for windows, window_mask in ((regular, mask[:0]), (shifted, mask)):
            shape, places = (len(windows), batch, math.prod(window)), None
            index = (raster[windows][:, None, :] + images).flatten()
            if padded != grid:
                places = _places(~is_padding[windows], batch, len(numbers))
                index = index.index_select(0, places)
            inverse_index = torch.empty_like(index).scatter_(0, index, numbers)
            from_grid.append(Permutation(index, inverse_index))
            partitions.append(Partition(shape, window_mask, places, window))
        to_regular, to_shifted = from_grid
        shift_rows = Permutation(
            index=to_regular.inverse_index.index_select(0, to_shifted.index),
            inverse_index=to_shifted.inverse_index.index_select(0, to_regular.index),
        )
        return WindowPlan((partitions[0], partitions[1]), (to_regular, to_shifted), shift_rows)


def shift_regions(padded: Sequence[int], window: Sequence[int], shift: Sequence[int], device: torch.device) -> Tensor:
    """Numbers what the shift made neighbours in windows (W, N): tokens with different numbers must not meet."""
    edges = [size - step for size, step in zip(padded, shift, strict=True)]
    return _cut(_regions(edges, padded, device), window)


def region_mask(regions: Tensor) -> Tensor:
    """The mask (W, N, N) of windows whose tokens have these numbers (W, N)."""
    return MASKED * (regions[:, :, None] != regions[:, None, :]).float()


def _regions(edges: Sequence[int], sizes: Sequence[int], device: torch.device) -> Tensor:
    """Numbers the boxes that one cut per dimension makes of a grid: 0 before every edge, another number beyond each."""
    regions = torch.zeros(*sizes, dtype=torch.int64, device=device)
    for dimension, (edge, size) in enumerate(zip(edges, sizes, strict=True)):
        beyond = torch.arange(size, device=device) >= edge
        shape = [1] * len(sizes)
        shape[dimension] = size
        regions = regions + (beyond.view(shape).long() << dimension)
    return regions


def _cut(values: Tensor, window: Sequence[int]) -> Tensor:
    """Cuts a grid of whole windows into (W, N)."""
    split = [part for size, side in zip(values.shape, window, strict=True) for part in (size // side, side)]
    dimensions = range(2 * values.ndim)
    windows = values.view(split).permute(*dimensions[::2], *dimensions[1::2])
    return contiguous(windows).view(math.prod(split[::2]), math.prod(window))


def contiguous(tensor: Tensor) -> Tensor:
    """A copy whatever the strides: `contiguous` and `reshape` would ask for sizes, which tracers leave open."""
    return tensor.clone(memory_format=torch.contiguous_format)


def _places(is_real: Tensor, batch: int, rows: int) -> Tensor:
    """Where the real tokens of windows (W, N) lie among the (W, B, N) tokens of a batch; there are `rows` of them."""
    of_batch = is_real[:, None, :].expand(-1, batch, -1).flatten()
    # `nonzero` would wait for a GPU. Padding goes to a last row, which is cut off.
    row = torch.where(of_batch, of_batch.cumsum(0) - 1, rows)
    places = torch.arange(len(row), device=row.device)
    return places.new_empty(rows + 1).scatter_(0, row, places)[:rows]


def window_groups(shape: Sequence[int], mask: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Groups consecutive windows so that what a group computes stays in the processor's cache.

    Takes the shape (W, B, N, ...) of tokens and the mask of the last windows; yields the windows of a group and their
    part of the mask, which holds no window where the group needs none.
    """
    windows, batch, length = shape[:3]
    interior = windows - len(mask)
    size = max(1, GROUP_TOKENS // (batch * length))
    for start in range(0, interior, size):
        yield slice(start, min(start + size, interior)), mask[:0]
    for start in range(interior, windows, size):
        stop = min(start + size, windows)
        yield slice(start, stop), mask[start - interior : stop - interior]


def _place(rows: Tensor, places: Tensor, length: int) -> Tensor:
    return rows.new_zeros(length, rows.shape[-1]).index_copy_(0, places, rows)


class _PermuteRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse_index: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_index)
        return rows.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inverse_index,) = ctx.saved_tensors
        return gradient.index_select(0, inverse_index), None, None


class _PlaceRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(places)
        return _place(rows, places, length)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return gradient.index_select(0, places), None, None


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, placed: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.length = len(placed)
        return placed.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return _place(gradient, places, ctx.length), None
