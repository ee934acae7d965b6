"""What the head of RepPoints V2 says."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LevelOutputs:
    """About one level of (H, W) cells, for B images, K classes, n points of a cell, M numbers that describe a mask.

    Attributes:
        class_logits: (B, K, H, W).
        first_offsets: (B, 2n, H, W) float32 y and x of each point from its cell, in units of the stride.
        refined_offsets: Likewise, after the second step.
        corner_logits: (B, 2, H, W) of top left and bottom right corners.
        corner_offsets: (B, 4, H, W) float32 x and y to the top left and to the bottom right corner, in units of the
            stride.
        foreground_logits: (B, K, H, W) of lying inside a box.
        mask_params: (B, M, H, W) float32; None without masks.
    """

    class_logits: Tensor
    first_offsets: Tensor
    refined_offsets: Tensor
    corner_logits: Tensor
    corner_offsets: Tensor
    foreground_logits: Tensor
    mask_params: Tensor | None
