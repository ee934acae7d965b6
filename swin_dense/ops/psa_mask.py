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
    relative = input.reshape(num_, h_mask, w_mask, h_feature, w_feature)
    y, x = (torch.arange(size, device=input.device) for size in (h_feature, w_feature))
    spread = _taken(relative, y[:, None] - y + half_h_mask, x[:, None] - x + half_w_mask)
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
    upstream = _by_type(grad_output, psa_type).reshape(num_, h_feature, w_feature, h_feature, w_feature)
    i, j, y, x = (torch.arange(n, device=grad_output.device) for n in (h_mask, w_mask, h_feature, w_feature))
    gathered = _taken(upstream, i[:, None] + y - half_h_mask, j[:, None] + x - half_w_mask)
    grad_input.copy_(gathered.reshape(grad_input.shape))


def _taken(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """What places (y, x) of maps (B, M, N, H, W) find at rows (P, H) and columns (Q, W) of M x N, or 0 beyond them.

    The result is (B, P, Q, H, W).
    """
    height, width = maps.shape[1:3]
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None]
    y, x = (torch.arange(size, device=maps.device) for size in maps.shape[3:])
    rows, columns = rows.clamp(0, height - 1)[:, None, :, None], columns.clamp(0, width - 1)[:, None]
    return maps[:, rows, columns, y[:, None], x].masked_fill(~inside, 0.0)


def _by_type(attention: Tensor, psa_type: int) -> Tensor:
    """(B, H * W, H, W) with the other place first, or with the place first where places distribute, and back."""
    if psa_type != DISTRIBUTE:
        return attention
    return attention.flatten(2).transpose(1, 2).reshape(attention.shape)
