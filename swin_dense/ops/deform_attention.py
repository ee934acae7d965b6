"""Multi-scale deformable attention (Zhu et al. 2021, equation 3), as DINO and Mask2Former use it.

For query q and head m, with sampling points p and weights A on the levels l of a feature pyramid x:

    out[q, m] = sum over l, p of A[q, m, l, p] * x[l][m](p)

where x(p) is bilinear, and zero outside the map. Sampling is torch's own kernel, whose gradients serve the backward
pass too. mmcv calls these ops on accelerators alone; on CPUs it computes the same itself.

Shapes, with B images, S positions of all levels together, M heads, D channels of a head, Q queries, L levels and P
points: value (B, S, M, D), the maps of all levels row by row, one after the other; value_spatial_shapes (L, 2) height
and width of each level; sampling_locations (B, Q, M, L, P, 2) x and y as parts of the level's width and height;
attention_weights (B, Q, M, L, P); the result is (B, Q, M * D). `value_level_start_index` follows from the shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.ops import full_precision


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """The attended values of every query."""
    return _attend(value, value_spatial_shapes, sampling_locations, attention_weights)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Overwrites the gradients; the samples are taken again instead of being kept since the forward pass."""
    inputs = [one.detach().requires_grad_() for one in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = _attend(inputs[0], value_spatial_shapes, inputs[1], inputs[2])
    gradients = torch.autograd.grad(output, inputs, grad_output)
    for target, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients, strict=True):
        target.copy_(gradient)


def _attend(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Computes in single precision at least: half of it would place points pixels apart on a large map."""
    kind = value.dtype
    value, locations, weights = full_precision(value, locations, weights)
    batch, _, heads, channels = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    sizes = shapes.tolist()
    positions = [height * width for height, width in sizes]
    maps = torch.split(value.permute(0, 2, 3, 1).flatten(0, 1), positions, dim=-1)  # each (B * M, D, H * W)
    grids = 2 * locations.transpose(1, 2).flatten(0, 1) - 1  # (B * M, Q, L, P, 2) in -1..1
    sampled = [
        functional.grid_sample(one.reshape(*one.shape[:2], *size), grids[:, :, level], align_corners=False)
        for level, (one, size) in enumerate(zip(maps, sizes, strict=True))
    ]
    kept = torch.stack(sampled, dim=-2).reshape(batch, heads, channels, queries, levels * points)
    factors = weights.transpose(1, 2).reshape(batch, heads, 1, queries, levels * points)
    attended = (kept * factors).sum(dim=-1)  # (B, M, D, Q)
    return attended.flatten(1, 2).transpose(1, 2).contiguous().to(kind)
