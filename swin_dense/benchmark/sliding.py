"""Sliding windows: every token attends to the M x M tokens around it, as in the comparison of the Swin paper's Table 5.

Two ways to compute the same. The naive one gathers the keys and values of each query by itself. The faster one shares
them between the queries of a block, as HaloNet does (arXiv 2103.12731): a block of M x M queries reads its
neighbourhood of (2M - 1) x (2M - 1) tokens once, and a mask leaves each query its own window.

Shapes: B images, a grid of (H, W) tokens, windows of M x M = N tokens, C channels = heads x D.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.backbones.attention import WindowAttention
from swin_dense.backbones.windows import MASKED


def sliding_bias(attention: WindowAttention) -> Tensor:
    """The bias (heads, N) of a token's window: what the table says of the token in the middle of a window."""
    middle = [side // 2 for side in attention.window]
    return attention.position_bias()[:, middle[0] * attention.window[1] + middle[1]]


def naive_sliding_attention(qkv: Tensor, bias: Tensor) -> Tensor:
    """Attends in sliding windows by gathering, for each query, all keys and values of its window.

    Takes qkv (B, H, W, 3, heads, D) and the bias (heads, N) of a window; returns (B, H, W, C). Windows that reach
    beyond the grid are cut off there.
    """
    batch, height, width = qkv.shape[:3]
    index, inside = _neighbours(height, width, math.isqrt(bias.shape[1]), qkv.device)
    query, key, value = qkv.flatten(1, 2).unbind(2)  # (B, H * W, heads, D)
    key, value = (part[:, index].transpose(2, 3) for part in (key, value))  # (B, H * W, heads, N, D)
    mask = (bias + MASKED * ~inside[:, None])[:, :, None].to(qkv.dtype)
    attended = functional.scaled_dot_product_attention(query[..., None, :], key, value, attn_mask=mask)
    return attended.reshape(batch, height, width, -1)


def blocked_sliding_attention(qkv: Tensor, bias: Tensor) -> Tensor:
    """What `naive_sliding_attention` computes, block by block."""
    batch, height, width, _, heads, dim = qkv.shape
    side = math.isqrt(bias.shape[1])
    rows, columns = -(-height // side), -(-width // side)
    before, reach = side // 2, 2 * side - 1
    below, right = rows * side - height, columns * side - width
    query = functional.pad(qkv[:, :, :, 0], (0, 0, 0, 0, 0, right, 0, below))
    query = query.view(batch, rows, side, columns, side, heads, dim).permute(0, 1, 3, 5, 2, 4, 6)
    after = side - 1 - before
    around = (0, 0, 0, 0, 0, 0, before, right + after, before, below + after)
    pairs = functional.pad(qkv[:, :, :, 1:], around).unfold(1, reach, side).unfold(2, reach, side)
    key, value = pairs.permute(3, 0, 1, 2, 4, 6, 7, 5).flatten(5, 6).flatten(1, 3).unbind()
    attended = functional.scaled_dot_product_attention(
        query.flatten(4, 5).flatten(0, 2),  # (B * rows * columns, heads, M * M, D)
        key,  # (B * rows * columns, heads, (2M - 1)^2, D)
        value,
        attn_mask=_block_bias(height, width, bias).to(qkv.dtype).repeat(batch, 1, 1, 1),
    )
    grid = attended.view(batch, rows, columns, heads, side, side, dim).permute(0, 1, 4, 2, 5, 3, 6)
    return grid.reshape(batch, rows * side, columns * side, heads * dim)[:, :height, :width]


def _neighbours(height: int, width: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places of the N tokens around each token, (H * W, N), and whether they lie inside the grid."""
    ranges = []
    for length in (height, width):
        places = torch.arange(length, device=device)[:, None] + torch.arange(side, device=device) - side // 2
        ranges.append((places.clamp(0, length - 1), (places >= 0) & (places < length)))
    (down, down_inside), (across, across_inside) = ranges
    index = down[:, None, :, None] * width + across[None, :, None, :]
    inside = down_inside[:, None, :, None] & across_inside[None, :, None, :]
    return index.flatten(2).flatten(0, 1), inside.flatten(2).flatten(0, 1)


def _block_bias(height: int, width: int, bias: Tensor) -> Tensor:
    """Bias and mask (blocks, heads, M * M, (2M - 1)^2) of the queries of each block and the tokens around them."""
    side = math.isqrt(bias.shape[1])
    reach, device = 2 * side - 1, bias.device
    offsets = torch.arange(reach, device=device) - torch.arange(side, device=device)[:, None]  # (M, 2M - 1)
    in_window = (offsets >= 0) & (offsets < side)
    place = offsets.clamp(0, side - 1)
    place = place[:, None, :, None] * side + place[None, :, None, :]
    seen = in_window[:, None, :, None] & in_window[None, :, None, :]
    own = (bias[:, place] + MASKED * ~seen).flatten(3).flatten(1, 2)

    insides = []
    for length in (height, width):
        first = torch.arange(0, length, side, device=device)[:, None] - side // 2
        places = first + torch.arange(reach, device=device)
        insides.append((places >= 0) & (places < length))
    inside = (insides[0][:, None, :, None] & insides[1][None, :, None, :]).flatten(2).flatten(0, 1)
    return own + MASKED * ~inside[:, None, None]
