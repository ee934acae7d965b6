"""Windows for PyTorch's compiler: padding, rolling and cutting as arithmetic, in place of the indices of a window plan.

A compiler turns views into the addresses at which its fused kernels read and write, and their gradients are views too;
indices it could only load. Sizes are handed to it as numbers of their own (`Grid`): what it would have to derive from
the size of the image, stage by stage, takes it minutes to reason about, and every division is one more case to compile.
Tokens stay in raster order, so no row moves between blocks.

Shapes as in `windows`: B images, a grid of tokens, W windows of N tokens each, C channels, R rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.backbones.windows import StillPlan, contiguous, region_mask, shift_regions


class Grid(NamedTuple):
    """The sizes of a stage."""

    tokens: tuple[int, ...]  # (H, W)
    windows: tuple[int, ...]  # down and across, the last ones filled with padding


def grid_of(tokens: Sequence[int], window: Sequence[int]) -> Grid:
    """The sizes of a stage whose grid has so many tokens, in windows of so many, per dimension."""
    counts = ((count + side - 1) // side for count, side in zip(tokens, window, strict=True))
    return Grid(tuple(tokens), tuple(counts))


class RolledPartition:
    """One way of cutting a grid into windows, as `Partition` is; in a cyclic shift every window has a mask."""

    def __init__(
        self,
        batch: int,
        grid: Grid,
        window: Sequence[int],
        shift: Sequence[int],
        device: torch.device,
        *,
        cyclic: bool = True,
    ) -> None:
        """Cuts a grid that is padded to whole windows and then rolled back by `shift`.

        Not cyclic, it is padded with `window - shift` before and `shift` after it instead, as Swin-MLP has it, so that
        nothing needs a mask.
        """
        self.batch, self.grid, self.counts = batch, grid.tokens, grid.windows
        self.window, self.shift = tuple(window), tuple(shift)
        self.before = [0] * len(self.grid)
        if not cyclic:
            self.before = [side - step if step else 0 for side, step in zip(window, shift, strict=True)]
            self.counts = tuple(count + int(step > 0) for count, step in zip(self.counts, shift, strict=True))
            self.shift = (0,) * len(self.grid)
        self.padded = [count * side for count, side in zip(self.counts, window, strict=True)]
        self.shape = math.prod(self.counts), batch, math.prod(window)
        self.mask = torch.empty(0, self.shape[2], self.shape[2], device=device)
        if any(self.shift):
            self.mask = region_mask(shift_regions(self.padded, window, self.shift, device))

    def fill(self, rows: Tensor) -> Tensor:
        """Puts rows (R, C) into the windows, (W, B, N, C), whose padding is zero."""
        ndim, channels = len(self.grid), rows.shape[-1]
        tokens = rows.view(self.batch, *self.grid, channels)
        padding = [0, 0]
        for size, padded, before in zip(self.grid[::-1], self.padded[::-1], self.before[::-1], strict=True):
            padding += [before, padded - size - before]
        tokens = functional.pad(tokens, padding)
        if any(self.shift):
            tokens = tokens.roll([-step for step in self.shift], list(range(1, ndim + 1)))
        split = [part for pair in zip(self.counts, self.window, strict=True) for part in pair]
        tokens = tokens.view(self.batch, *split, channels)
        order = [*range(1, 2 * ndim, 2), 0, *range(2, 2 * ndim + 1, 2), 2 * ndim + 1]
        return contiguous(tokens.permute(order)).view(*self.shape, channels)

    def take(self, windows: Tensor) -> Tensor:
        """Takes the rows (R, C) out of the windows (W, B, N, C) again and leaves their padding behind."""
        ndim, channels = len(self.grid), windows.shape[-1]
        windows = windows.view(*self.counts, self.batch, *self.window, channels)
        order = [part for i in range(ndim) for part in (i, ndim + 1 + i)]
        tokens = contiguous(windows.permute(ndim, *order, 2 * ndim + 1)).view(self.batch, *self.padded, channels)
        if any(self.shift):
            tokens = tokens.roll(self.shift, list(range(1, ndim + 1)))
        for dimension, (before, size) in enumerate(zip(self.before, self.grid, strict=True), start=1):
            tokens = tokens.narrow(dimension, before, size)
        return contiguous(tokens).view(self.batch * math.prod(self.grid), channels)


def rolled_plan(
    batch: int, grid: Grid, window: Sequence[int], shift: Sequence[int], device: torch.device, *, cyclic: bool = True
) -> StillPlan:
    """A grid cut into regular and into shifted windows."""
    regular, shifted = (
        RolledPartition(batch, grid, window, steps, device, cyclic=cyclic) for steps in ([0] * len(shift), shift)
    )
    return StillPlan((regular, shifted))
