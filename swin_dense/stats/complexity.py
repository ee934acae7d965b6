"""The cost of attention over a whole map and inside windows: the paper's equations, and what the running code does.

On h x w tokens of C channels, with windows of M x M tokens (Swin paper, section 3.2):

    MSA:    4 h w C^2 + 2 (h w)^2 C    (1)
    W-MSA:  4 h w C^2 + 2 M^2 h w C    (2)

multiply-adds, softmax left out. The first term is the projections, the second both products of attention.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from swin_dense.backbones.attention import WindowAttention
from swin_dense.backbones.windows import window_plan
from swin_dense.errors import ConfigError
from swin_dense.stats import count_macs


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one attention layer."""

    equation: int
    counted: int  # in the running code; more than by equation (2) where padding fills the last windows


@dataclass(frozen=True)
class AttentionComplexity:
    """Attention over a whole map beside attention inside windows.

    Attributes:
        height: Rows of tokens.
        width: Tokens in a row.
        window: Side of the windows in tokens.
        channels: Channels of a token.
        global_attention: Equation 1, and `WindowAttention` with one window that is the map.
        window_attention: Equation 2, and `WindowAttention` as a block runs it.
        saved: The first equation less the second.
    """

    height: int
    width: int
    window: int
    channels: int
    global_attention: Cost
    window_attention: Cost
    saved: int

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts and numbers, for JSON."""
        return asdict(self)


def attention_complexity(height: int, width: int, window: int, channels: int) -> AttentionComplexity:
    """Evaluates equations 1 and 2, and counts the multiply-adds of the code that they are about.

    Args:
        height: Rows of tokens, h.
        width: Tokens in a row, w.
        window: Side of the square windows in tokens, M.
        channels: Channels of a token, C.

    Raises:
        ConfigError: A size is below one.

    Example:
        >>> from swin_dense.stats.complexity import attention_complexity
        >>> complexity = attention_complexity(112, 112, window=7, channels=128)
        >>> complexity.saved
        40124743680
        >>> complexity.window_attention
        Cost(equation=979435520, counted=979435520)
    """
    for name, value in {"height": height, "width": width, "window": window, "channels": channels}.items():
        if value < 1:
            raise ConfigError(f"{name}={value}: must be at least 1")
    area = height * width
    projections = 4 * area * channels**2
    whole = Cost(projections + 2 * area**2 * channels, _counted((height, width), (height, width), channels))
    windows = Cost(projections + 2 * window**2 * area * channels, _counted((height, width), (window,) * 2, channels))
    saved = whole.equation - windows.equation
    return AttentionComplexity(height, width, window, channels, whole, windows, saved)


def complexity_by_image_side(window: int, channels: int) -> tuple[list[int], dict[str, list[Cost]]]:
    """Sides of square images in pixels, and both costs on their finest map, which has 4 pixels a token."""
    sides = list(range(128, 1025, 128))
    costs = [attention_complexity(side // 4, side // 4, window, channels) for side in sides]
    return sides, {
        "whole map, equation 1": [cost.global_attention for cost in costs],
        f"windows of {window}x{window}, equation 2": [cost.window_attention for cost in costs],
    }


def _counted(grid: tuple[int, int], window: tuple[int, int], channels: int) -> int:
    """Counts attention of one image's tokens, on the meta device; heads do not change the count."""
    tokens = torch.empty(1, *grid, channels, device="meta")
    with torch.device("meta"):
        attention = WindowAttention(channels, heads=1, window=window)

    def forward(module: torch.nn.Module) -> Tensor:
        plan = window_plan(tokens, window, (0, 0))
        regular = plan.partitions[0]
        rows = plan.from_grid[0](tokens.flatten(0, -2))
        return regular.take(module(regular.fill(rows), regular.mask, window))

    return count_macs(attention, forward).total
