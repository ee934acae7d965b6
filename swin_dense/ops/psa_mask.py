"""From attention by relative place to attention by place, for PSANet (Zhao et al. 2018, section 3.2).

The hM * wM channels at a place (y, x) of a map hold its attention to the places up to half of that away. The result
has a channel for each of the H * W places instead: 0 for those that are too far. Collecting, a place takes
output[b, other, y, x] from every other one; distributing, it gives output[b, place, other] to it. All buffers are
overwritten.
"""

from __future__ import annotations

import torch
from torch import Tensor

DISTRIBUTE = 1


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Spreads (B, hM * wM, H, W) to (B, H * W, H, W)."""
    # Axes: image, the other place's row and column, the place's row and column.
    relative = input.reshape(num_, h_mask, w_mask, h_feature, w_feature)
    places_y, places_x = (torch.arange(size, device=input.device) for size in (h_feature, w_feature))
    row = places_y[:, None] - places_y + half_h_mask
    column = places_x[:, None] - places_x + half_w_mask
    near = ((row >= 0) & (row < h_mask))[:, None, :, None] & ((column >= 0) & (column < w_mask))[:, None]
    rows, columns = row.clamp(0, h_mask - 1)[:, None, :, None], column.clamp(0, w_mask - 1)[:, None]
    spread = relative[:, rows, columns, places_y[:, None], places_x].masked_fill(~near, 0.0)
    output.copy_(_by_type(spread.reshape(output.shape), psa_type))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Gradient (B, hM * wM, H, W) of what was spread."""
    # Axes: image, the channel's row and column, the place's row and column.
    upstream = _by_type(grad_output, psa_type).reshape(num_, h_feature, w_feature, h_feature, w_feature)
    places_y, places_x = (torch.arange(size, device=grad_output.device) for size in (h_feature, w_feature))
    row = torch.arange(h_mask, device=grad_output.device)[:, None] + places_y - half_h_mask
    column = torch.arange(w_mask, device=grad_output.device)[:, None] + places_x - half_w_mask
    inside = ((row >= 0) & (row < h_feature))[:, None, :, None] & ((column >= 0) & (column < w_feature))[:, None]
    rows, columns = row.clamp(0, h_feature - 1)[:, None, :, None], column.clamp(0, w_feature - 1)[:, None]
    gathered = upstream[:, rows, columns, places_y[:, None], places_x].masked_fill(~inside, 0.0)
    grad_input.copy_(gathered.reshape(grad_input.shape))


def _by_type(attention: Tensor, psa_type: int) -> Tensor:
    """(B, H * W, H, W) with the other place first, or with the place first where places distribute, and back."""
    if psa_type != DISTRIBUTE:
        return attention
    return attention.flatten(2).transpose(1, 2).reshape(attention.shape)
