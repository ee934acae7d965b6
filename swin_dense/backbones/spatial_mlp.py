"""Swin-MLP's mixing of tokens: one linear map over the places of a window for each head, in place of attention.

The paper calls it Swin-Mixer (Table 10). It is a convolution of groups, one per head, over the places of a window, with
as many output places. Shifted windows do not wrap round: the official code pads the map with zeros by `window - shift`
before and `shift` after it, and crops the result. As the map is linear, this equals windows of the cyclic shift in
which tokens that only the shift made neighbours are left out; so the window plan serves, and its mask says which.
Padding is zero, and so, other than in attention, takes no part.

Shapes: W windows, B images, N tokens in a window, C channels = heads x D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from swin_dense.backbones.windows import contiguous


class SpatialMlp(nn.Conv1d):
    """A linear map over the places of a window, with weights of its own for each head."""

    def __init__(self, heads: int, window: Sequence[int]) -> None:
        """Creates the weights (heads * N, N, 1) and biases (heads * N,) for windows of so many tokens per dimension."""
        length = math.prod(window)
        super().__init__(heads * length, heads * length, kernel_size=1, groups=heads)
        self.heads = heads
        self.window = tuple(window)

    def forward(  # type: ignore[override]  # of a convolution it is the weights alone
        self, tokens: Tensor, mask: Tensor, window: Sequence[int] | None = None
    ) -> Tensor:
        """Mixes the tokens (W, B, N, C) of each window; returns the same shape.

        Args:
            tokens: Normalised tokens, padding zero.
            mask: (boundary windows, N, N), those of the last windows; not zero between tokens that must not meet.
            window: Tokens per dimension, N together; None takes those of the weights, which are the most.
        """
        weight, bias = self.place_weights(window)
        interior = len(tokens) - len(mask)
        mixed = _mix(tokens[:interior].flatten(0, 1)[None], weight[None], bias).view_as(tokens[:interior])
        if len(mask):
            apart = weight * (mask == 0)[:, None]
            mixed = torch.cat([mixed, _mix(tokens[interior:], apart, bias)])
        return mixed

    def place_weights(self, window: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Weights (heads, N, N), from places in the last dimension to places, and biases (heads, N), of a window.

        Of a window smaller than that of the weights, they are those of its places at the top left: what the whole
        window would give, filled with padding.
        """
        shown = self.window if window is None else window
        weight = self.weight.view(self.heads, *self.window, *self.window)
        bias = self.bias.view(self.heads, *self.window)  # type: ignore[union-attr]  # there always is one
        for dimension, side in enumerate(shown, start=1):
            weight = weight.narrow(dimension, 0, side).narrow(dimension + len(shown), 0, side)
            bias = bias.narrow(dimension, 0, side)
        length = math.prod(shown)
        return weight.reshape(self.heads, length, length), bias.reshape(self.heads, length)


def _mix(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Maps tokens (G, T, N, C) by weights (G, heads, N, N) and biases (heads, N), one product per group and head."""
    groups, count, _, channels = tokens.shape
    heads, length = bias.shape
    dim = channels // heads
    columns = tokens.view(groups, count, length, heads, dim).permute(0, 3, 2, 1, 4)
    columns = contiguous(columns).view(groups * heads, length, count * dim)
    mixed = torch.baddbmm(bias[:, :, None].repeat(groups, 1, 1), weight.flatten(0, 1), columns)
    mixed = contiguous(mixed.view(groups, heads, length, count, dim).permute(0, 3, 2, 1, 4))
    return mixed.view(groups, count, length, channels)
