"""A stage: blocks at one resolution in regular and shifted windows, and patch merging (Swin paper, section 3.1).

Shapes: B images or clips; a grid of (H, W) or (T, H, W) tokens, channels last; C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from swin_dense.backbones.attention import linear_dtype
from swin_dense.backbones.block import StageOptions, SwinBlock, needs_gradient
from swin_dense.backbones.gridded_attention import GridPlan, kernel_serves
from swin_dense.backbones.patches import PatchMerging
from swin_dense.backbones.rolled import Grid, RolledPlan
from swin_dense.backbones.windows import WindowPlan, fitted_window, window_plan


class SwinStage(nn.Module):
    """Blocks at one resolution, and the patch merging that leads to the next."""

    def __init__(self, options: StageOptions, drop_paths: Sequence[float], *, downsample: bool) -> None:
        """Creates one block per drop path rate, and patch merging where `downsample` is set."""
        super().__init__()
        self.head_dim = options.channels // options.heads
        self.window = options.window
        self.shift_windows = options.shift_windows
        self.mixing = options.mixing
        self.activation_checkpointing = False
        self.fit_windows = False
        self.blocks = nn.ModuleList(SwinBlock(options, drop_path) for drop_path in drop_paths)
        self.downsample = PatchMerging(options.channels, norm_last=options.version == 2) if downsample else None

    def forward(self, tokens: Tensor, grids: Sequence[Grid] | None = None) -> tuple[Tensor, Tensor]:
        """Runs the blocks on tokens (B, *grid, C), regular and shifted windows in turn, and then patch merging.

        A compiler is told the sizes of this and of the later stages.

        Returns the tokens after the blocks and those that the next stage begins with, (B, *merged, 2C), whose grid has
        half the height and width, rounded up; after the last stage the same twice.
        """
        window: Sequence[int] = self.window
        shift = [side // 2 for side in window]
        if self.fit_windows:
            window, shift = fitted_window(tokens.shape[1:-1], window)
        shift = [step if shifts else 0 for step, shifts in zip(shift, self.shift_windows, strict=True)]
        grid = tokens.shape[1:-1] if grids is None else grids[0].tokens
        plan: WindowPlan | RolledPlan | GridPlan
        by_attention = self.mixing == "attention"
        if by_attention and kernel_serves(tokens.device, linear_dtype(tokens), self.head_dim, tuple(window)):
            plan = GridPlan(len(tokens), grid, window, shift)
        elif grids is None:
            plan = window_plan(tokens, window, shift)
        else:
            plan = RolledPlan(len(tokens), grids[0], window, shift, tokens.device, cyclic=by_attention)
        rows = plan.from_grid[0](tokens.flatten(0, -2))
        for index, block in enumerate(self.blocks):
            if index > 0 and any(shift):
                rows = (plan.shift if index % 2 else plan.shift.inverse)(rows)
            partition = plan.partitions[index % 2]
            if self.activation_checkpointing and needs_gradient(block, rows):
                rows = checkpoint(block, rows, partition, use_reentrant=False)
            else:
                rows = block(rows, partition)
        tokens = plan.from_grid[index % 2].inverse(rows).view(tokens.shape)
        if self.downsample is None:
            return tokens, tokens
        return tokens, self.downsample(tokens, None if grids is None else grids[1].tokens)
