"""Deformable RoI pooling (Dai et al. 2017, section 2.2): RoIAlign whose bins are moved.

Bin (i, j) of a region of width w and height h moves by gamma * (w * offset[:, 0, i, j], h * offset[:, 1, i, j]); offset
is (R, 2, h, w), or empty for none. torchvision has no such kernel, so that all is plain PyTorch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.ops import full_precision
from swin_dense.ops.roi import bins_of, readable, samples_of

LARGEST_CHUNK = 2**24
"""Numbers that are sampled at a time."""


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Pools (B, C, H, W) features to (R, C, h, w)."""
    features, rois, offset = full_precision(input, rois, offset)
    rois, broken = readable(rois, len(features), spatial_scale)
    size = (pooled_height, pooled_width)
    output.copy_(_pool_moved(features, rois, offset, size, spatial_scale, sampling_ratio, gamma))
    output.masked_fill_(broken[:, None, None, None], math.nan)


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Gradients with respect to the features and the offsets.

    Samples that lie less than a pixel outside the map have the value of its border, and their offsets no gradient in
    that direction; mmcv's kernel extrapolates there.
    """
    if not len(rois):
        return
    grad_output, features, rois, offset = full_precision(grad_output, input, rois, offset)
    rois, broken = readable(rois, len(features), spatial_scale)
    inputs = [one.detach().requires_grad_() for one in (features, offset)]
    size = (pooled_height, pooled_width)
    with torch.enable_grad():
        pooled = _pool_moved(inputs[0], rois, inputs[1], size, spatial_scale, sampling_ratio, gamma)
    upstream = grad_output.masked_fill(broken[:, None, None, None], 0.0)
    gradients = torch.autograd.grad(pooled, inputs, upstream, allow_unused=True, materialize_grads=True)
    for target, gradient in zip((grad_input, grad_offset), gradients, strict=True):
        target += gradient


def _pool_moved(
    features: Tensor,
    rois: Tensor,
    offset: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Tensor:
    """RoIAlign with moved bins in plain PyTorch, differentiable with respect to the features and the offsets."""
    corners, bins, sides = bins_of(rois, size, spatial_scale, aligned=True)
    if offset.numel():
        corners = [corner + gamma * sides[:, axis, None, None] * offset[:, axis] for axis, corner in enumerate(corners)]
    channels, height, width = features.shape[1:]
    output = features.new_zeros(len(rois), *size, channels)
    images = rois[:, 0].long()
    for image in sorted(set(images.tolist())):
        chosen = (images == image).nonzero()[:, 0]
        x, y = (corner[chosen].expand(-1, *size) for corner in corners)
        samples = [
            *samples_of(x, bins[chosen, 0], sampling_ratio, width),
            *samples_of(y, bins[chosen, 1], sampling_ratio, height),
        ]
        count = max(1, LARGEST_CHUNK // max(1, channels * samples[0].shape[-1] * samples[2].shape[-1]))
        chunks = zip(*(torch.split(one.flatten(0, 2), count) for one in samples), strict=True)
        pooled = torch.cat([_weighted_sum(features[image], *chunk) for chunk in chunks])
        output = output.index_copy(0, chosen, pooled.view(-1, *size, channels))
    return output.permute(0, 3, 1, 2)


def _weighted_sum(feature_map: Tensor, x: Tensor, weights_x: Tensor, y: Tensor, weights_y: Tensor) -> Tensor:
    """The sum of a map (C, H, W) at all pairs of x (N, T) and y (N, S), weighted: (N, C)."""
    height, width = feature_map.shape[1:]
    pairs = (len(x), y.shape[1], x.shape[1])
    # grid_sample's coordinates run from -1 at the left edge of the first pixel to 1 at the right edge of the last.
    grid_x, grid_y = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
    grid = torch.stack([grid_x[:, None].expand(pairs), grid_y[:, :, None].expand(pairs)], dim=-1).flatten(1, 2)
    sampled = functional.grid_sample(feature_map[None], grid[None], padding_mode="border", align_corners=False)[0]
    return torch.einsum("cns,ns->nc", sampled, (weights_y[:, :, None] * weights_x[:, None]).flatten(1))
