"""The Swin block, and the stage that blocks of regular and shifted windows make (Swin paper, sections 3.1 and 3.2).

A block is attention inside windows, then an MLP, each after a norm and beside a residual connection. Swin-MLP has its
mixing in place of attention.

Shapes: R rows of C channels, the real tokens of a batch in window order; W windows, B images or clips, N tokens in a
window; grids of (H, W) or (T, H, W) tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from swin_dense.backbones.attention import Attention, CosineAttention, WindowAttention
from swin_dense.backbones.gridded_attention import GridPartition, grid_plan, kernel_serves
from swin_dense.backbones.patches import PatchMerging
from swin_dense.backbones.rolled import Grid, RolledPartition, grid_of, rolled_plan
from swin_dense.backbones.rows import (
    Before,
    LayerNorm,
    Mlp,
    has_norm_and_mlp,
    is_plain,
    linear_dtype,
    needs_gradient,
    norm_and_mlp,
    normalised,
    runs_alone,
)
from swin_dense.backbones.windows import Partition, StillPlan, WindowPlan, fitted_window, window_plan

AnyPartition = Partition | RolledPartition | GridPartition

TEMPORAL_LAYERS = 2
"""Layers over time behind the last stage, where attention over space and time is split (Video Swin paper, Table 4)."""


@dataclass(frozen=True)
class StageOptions:
    """What the blocks of a stage have in common; `SwinTransformer` says what its options of these names do."""

    channels: int
    heads: int
    window: tuple[int, ...]
    shift_windows: tuple[bool, ...] = (True, True)  # along each dimension
    relative_position_bias: bool = True
    appearance_term: bool = True
    mixing: str = "attention"
    version: int = 1
    pretrained_window: int = 1  # of version 2, this stage's of `pretrained_window_sizes`
    temporal_window: tuple[int, ...] | None = None  # of the second attention of each block, if it is factorized


class SwinBlock(nn.Module):
    """One Swin block on tokens in window order (Swin paper, equation 3), regular or shifted as its partition says.

    In version 2 the norms stand behind attention and MLP (Swin V2 paper, section 3.2).
    """

    def __init__(self, options: StageOptions, drop_path: float) -> None:
        """Creates norms, attention and MLP; in training each branch is dropped for an image with `drop_path`."""
        super().__init__()
        self.drop_path = drop_path
        self.norms_last = options.version == 2
        self.norm1 = LayerNorm(options.channels)
        self.mixing = options.mixing
        if options.mixing == "mlp":
            from swin_dense.backbones.spatial_mlp import SpatialMlp

            self.spatial_mlp = SpatialMlp(options.heads, options.window)
        else:
            self.attn = _attention(options)
        self.temporal = None if options.temporal_window is None else TemporalAttention(options)
        self.norm2 = LayerNorm(options.channels)
        self.mlp = Mlp(options.channels)

    def forward(
        self,
        rows: Tensor,
        partition: AnyPartition,
        over_time: RolledPartition | None = None,
    ) -> Tensor:
        """Runs the block on rows (R, C) that lie in the windows of `partition`; returns the same shape.

        Where attention is factorized, they also lie in the windows `over_time`.
        """
        # Groups are for the cache of a CPU, and need values to be read; hooks are to see all rows at once.
        if not isinstance(partition, Partition) or not _on_cpu_with_values(rows) or needs_gradient(self, rows):
            return self._run(rows, partition, over_time)
        if not all(runs_alone(module) for module in self.modules() if module is not self):
            return self._run(rows, partition, over_time)
        if self.training and self.drop_path > 0.0:  # an image keeps or loses a branch in all of its windows
            return self._run(rows, partition, over_time)
        output = torch.empty_like(rows)
        for group, group_partition in partition.groups():
            output[group] = self._run(rows[group], group_partition, None)
        return output

    def _run(self, rows: Tensor, partition: AnyPartition, over_time: RolledPartition | None) -> Tensor:
        attended = self._drop_path(self._mixed(rows, partition), partition)
        if self.temporal is not None:
            assert over_time is not None
            rows = rows + attended
            attended = self._drop_path(self.temporal(rows, over_time), partition)
        if not (self.training or self.norms_last) and has_norm_and_mlp(rows, attended, self.norm2, self.mlp):
            return norm_and_mlp(rows, attended, self.norm2, self.mlp)
        rows = rows + attended
        return rows + self._drop_path(with_norm(self.norm2, self.mlp, rows, last=self.norms_last), partition)

    def _mixed(self, rows: Tensor, partition: AnyPartition) -> Tensor:
        mixing = self.spatial_mlp if self.mixing == "mlp" else self.attn
        if self.norms_last:
            normalised: Tensor = self.norm1(_in_windows(mixing, rows, partition, None))
            return normalised
        return _in_windows(mixing, rows, partition, self.norm1)

    def _drop_path(self, branch: Tensor, partition: AnyPartition) -> Tensor:
        """Zeroes a branch (R, C) for some images, and scales it for the others so that its mean stays."""
        if self.drop_path == 0.0 or not self.training:
            return branch
        windows, batch, length = partition.shape
        keep = 1.0 - self.drop_path
        scales = branch.new_empty(batch).bernoulli_(keep).div_(keep)
        return branch * partition.take(scales[:, None, None].expand(windows, batch, length, 1))


class TemporalAttention(nn.Module):
    """Attention over time alone, times a learned weight that is zero at first (Video Swin paper, Table 4)."""

    def __init__(self, options: StageOptions) -> None:
        """Creates norm, attention and weight."""
        super().__init__()
        assert options.temporal_window is not None
        self.norm = LayerNorm(options.channels)
        self.attn = _attention(replace(options, window=options.temporal_window))
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, rows: Tensor, partition: RolledPartition) -> Tensor:
        """What is added to rows (R, C) that lie in the windows of `partition`."""
        return self.weight * _in_windows(self.attn, rows, partition, self.norm)


class SwinStage(nn.Module):
    """Blocks at one resolution, and the patch merging that leads to the next."""

    def __init__(self, options: StageOptions, drop_paths: Sequence[float], *, downsample: bool) -> None:
        """Creates one block per drop path rate, and patch merging where `downsample` is set."""
        super().__init__()
        self.head_dim = options.channels // options.heads
        self.window = options.window
        self.shift_windows = options.shift_windows
        self.mixing = options.mixing
        self.temporal_window = options.temporal_window
        self.temporal: SwinStage | None = None  # layers over time alone behind the blocks, if attention is split
        self.activation_checkpointing = False
        self.fit_windows = False
        self.blocks = nn.ModuleList(SwinBlock(options, drop_path) for drop_path in drop_paths)
        self.downsample = PatchMerging(options.channels, norm_last=options.version == 2) if downsample else None

    def forward(self, tokens: Tensor, grids: Sequence[Grid] | None = None) -> tuple[Tensor, Tensor]:
        """Runs the blocks on tokens (B, *grid, C), regular and shifted windows in turn, and then patch merging.

        A compiler is told the sizes of this and of the later stages.

        Returns the tokens after the blocks as rows in raster order, and those that the next stage begins with,
        (B, *merged, 2C), whose grid has half the height and width, rounded up; after the last stage those of the rows.
        """
        window, shift = self._window_and_shift(tokens, self.window)
        grid = tokens.shape[1:-1] if grids is None else grids[0].tokens
        plan: WindowPlan | StillPlan
        by_attention = self.mixing == "attention"
        kernel = tokens.device, linear_dtype(tokens), self.head_dim, tuple(window)
        if by_attention and kernel_serves(*kernel) and all(_attends_on_grid(block) for block in self.blocks):
            plan = grid_plan(len(tokens), grid, window, shift)
        elif grids is None and self.temporal_window is None:
            plan = window_plan(tokens, window, shift)
        else:
            cut = grid_of(grid, window) if grids is None else grids[0]
            plan = rolled_plan(len(tokens), cut, window, shift, tokens.device, cyclic=by_attention)
        over_time: Sequence[RolledPartition | None] = (None, None)
        if self.temporal_window is not None:  # the rows are in raster order
            cut = grid_of(grid, self.temporal_window)
            cuts = self._window_and_shift(tokens, self.temporal_window)
            over_time = rolled_plan(len(tokens), cut, *cuts, tokens.device).partitions
        rows = plan.from_grid[0](tokens.flatten(0, -2))
        for index, block in enumerate(self.blocks):
            if index > 0 and any(shift):
                rows = (plan.shift if index % 2 else plan.shift.inverse)(rows)
            partitions = plan.partitions[index % 2], over_time[index % 2]
            if self.activation_checkpointing and needs_gradient(block, rows):
                rows = checkpoint(block, rows, *partitions, use_reentrant=False)
            else:
                rows = block(rows, *partitions)
        rows = plan.from_grid[index % 2].inverse(rows)
        tokens = rows.view(tokens.shape)
        if self.temporal is not None:
            rows, tokens = self.temporal(tokens, None if grids is None else [grid_of(grid, self.temporal.window)])
        if self.downsample is None:
            return rows, tokens
        return rows, self.downsample(tokens, None if grids is None else grids[1].tokens)

    def _window_and_shift(self, tokens: Tensor, window: Sequence[int]) -> tuple[Sequence[int], list[int]]:
        """The windows that cut tokens (B, *grid, C), and how far they are shifted along each dimension."""
        shift = [side // 2 for side in window]
        if self.fit_windows:
            window, shift = fitted_window(tokens.shape[1:-1], window)
        return window, [step if shifts else 0 for step, shifts in zip(shift, self.shift_windows, strict=True)]


def _attends_on_grid(block: nn.Module) -> bool:
    """Whether attention is its own `on_grid`, which calls neither a hook of it nor what was put in its place."""
    attention = block.get_submodule("attn")
    return isinstance(attention, Attention) and all(runs_alone(one) for one in (attention, attention.qkv))


def _attention(options: StageOptions) -> Attention:
    if options.version == 2:
        return CosineAttention(options.channels, options.heads, options.window, options.pretrained_window)
    return WindowAttention(
        options.channels,
        options.heads,
        options.window,
        relative_position_bias=options.relative_position_bias,
        appearance_term=options.appearance_term,
    )


def with_norm(norm: LayerNorm, branch: Callable[..., Tensor], tokens: Tensor, *, last: bool) -> Tensor:
    """A branch beside a residual connection, with its norm before it or, in version 2, behind it."""
    output: Tensor
    if last:
        output = norm(branch(tokens))
    elif isinstance(branch, Mlp) and is_plain(branch):
        output = branch(tokens, norm)
    else:
        output = branch(normalised(norm, tokens))
    return output


def _in_windows(mixing: Any, rows: Tensor, partition: AnyPartition, norm: LayerNorm | None) -> Tensor:
    """What attention, or a spatial MLP, makes of rows (R, C) in their windows, normalised before if a norm is given."""
    before = [Before(norm, partial(_fill, partition))]
    if not is_plain(mixing, (WindowAttention, CosineAttention)):  # hooks and wrappers are given the tokens themselves
        rows, before = before[0](rows), []
    mixed: Tensor
    if isinstance(partition, GridPartition):
        mixed = mixing.on_grid(rows, partition.window, partition.shift, *before)
    else:
        mixed = mixing(rows, partition.mask, partition.window, *before)
    return partition.take(mixed)


def _fill(partition: AnyPartition, rows: Tensor) -> Tensor:
    """Rows in their windows, where padding, zero in every block, takes part in attention like any token."""
    # What autocast is going to round is rounded before it moves: fewer bytes.
    return partition.fill(rows.to(linear_dtype(rows)))


def _on_cpu_with_values(rows: Tensor) -> bool:
    """Whether rows can be handled in groups: tracers, which know shapes alone, and GPUs take all at once."""
    return rows.is_cpu and type(rows) is Tensor
