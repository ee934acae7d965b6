"""Pooling of regions of interest from feature maps: RoIAlign, RoIPool, and deformable pooling.

Regions are rows (image index, x1, y1, x2, y2) in pixels of the image; `spatial_scale` takes them to the feature map.
Shapes: features (B, C, H, W), regions (R, 5), output (R, C, h, w) of bins.

Signatures are those of mmcv's compiled ops, so that its autograd wrappers call them unchanged: forward functions
overwrite `output`, backward functions add to the gradient buffers. A region that is not finite, or of an image that is
not there, gives NaN and no gradient; torchvision's kernels would read memory that is not theirs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.errors import UnsupportedOpError
from swin_dense.ops.kernels import full_precision, torchvision_kernels

MAX_POOLING = 0

LARGEST_TABLE = 2**20
"""Samples of a region of which torchvision may keep a table on the CPU, at 32 bytes each or more."""

LARGEST_CHUNK = 2**24
"""Numbers that are sampled at a time."""


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign (He et al. 2017): the mean of bilinear samples on a regular grid in each bin.

    `sampling_ratio` samples are taken per bin and axis, ceil(bin size) of them where it is 0. `aligned` puts a pixel's
    centre at half coordinates; the older form without it makes regions at least one pixel wide. The buffers `argmax_y`
    and `argmax_x` are those of max pooling, which raises `UnsupportedOpError`.
    """
    _require_average(pool_mode)
    size = (aligned_height, aligned_width)
    features, rois = full_precision(input, rois)
    rois, broken = _sound(rois, len(features), spatial_scale, aligned and sampling_ratio <= 0)
    large = _too_large(rois, size, spatial_scale, sampling_ratio)
    small = rois.masked_fill(large[:, None], 0.0)
    output.copy_(torchvision_kernels.roi_align(features, small, spatial_scale, *size, sampling_ratio, aligned))
    if large.device.type == "cpu" and large.any():
        pooled = _pool_large(features, rois[large], size, spatial_scale, aligned)
        output[large] = pooled.to(output.dtype)
    output.masked_fill_(broken[:, None, None, None], math.nan)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of RoIAlign with respect to its feature map."""
    _require_average(pool_mode)
    size = (aligned_height, aligned_width)
    grad_output, rois = full_precision(grad_output, rois)
    rois, broken = _sound(rois, len(grad_input), spatial_scale, aligned and sampling_ratio <= 0)
    large = _too_large(rois, size, spatial_scale, sampling_ratio)
    by_small = grad_output.masked_fill((broken | large)[:, None, None, None], 0.0)
    small = rois.masked_fill(large[:, None], 0.0)
    grad_input += torchvision_kernels._roi_align_backward(
        by_small, small, spatial_scale, *size, *grad_input.shape, sampling_ratio, aligned
    )
    if large.device.type == "cpu" and large.any():
        features = torch.zeros_like(grad_input, dtype=grad_output.dtype).requires_grad_()
        with torch.enable_grad():
            pooled = _pool_large(features, rois[large], size, spatial_scale, aligned)
        grad_input += torch.autograd.grad(pooled, features, grad_output[large])[0]


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoIPool (Girshick 2015) as mmcv defines it: the largest value in each bin, with unrounded region borders.

    torchvision's op rounds the region to whole pixels before it cuts it into bins; mmcv's rounds only the bins. Every
    bin is a whole-pixel rectangle then, so torchvision's op, asked to pool each bin as a region of its own, gives
    mmcv's result. x2 and y2 are the last pixels inside. A bin outside the map gives 0; `argmax` holds y * W + x of the
    maximum, or -1 there.
    """
    features, rois = full_precision(input, rois)
    rois, broken = _sound(rois, len(features), spatial_scale)
    bins = _whole_pixel_bins(rois, pooled_height, pooled_width, spatial_scale, *features.shape[-2:])
    pooled, positions = torchvision_kernels.roi_pool(features, bins, 1.0, 1, 1)
    regions_channels_last = (len(rois), pooled_height, pooled_width, features.shape[1])
    output.copy_(pooled.view(regions_channels_last).permute(0, 3, 1, 2))
    argmax.copy_(positions.view(regions_channels_last).permute(0, 3, 1, 2))
    output.masked_fill_(broken[:, None, None, None], math.nan)
    argmax.masked_fill_(broken[:, None, None, None], -1)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Gradient of RoIPool with respect to its feature map: each bin's goes to the pixel of its maximum."""
    grad_output, rois = full_precision(grad_output, rois)
    rois, _ = _sound(rois, len(grad_input), spatial_scale)
    grad_input += torchvision_kernels._roi_pool_backward(
        grad_output, rois, argmax, spatial_scale, pooled_height, pooled_width, *grad_input.shape
    )


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
    """Deformable RoI pooling (Dai et al. 2017, section 2.2): RoIAlign whose bins are moved.

    Bin (i, j) of a region of width w and height h moves by gamma * (w * offset[:, 0, i, j], h * offset[:, 1, i, j]);
    `offset` is (R, 2, h, w), or empty for none.
    """
    features, rois, offset = full_precision(input, rois, offset)
    rois, broken = _sound(rois, len(features), spatial_scale)
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
    """Gradients of deformable RoI pooling with respect to its feature map and offsets.

    Samples that lie less than a pixel outside the map have the value of its border, and their offsets no gradient in
    that direction; mmcv's kernel extrapolates there.
    """
    if not len(rois):
        return
    grad_output, features, rois, offset = full_precision(grad_output, input, rois, offset)
    rois, broken = _sound(rois, len(features), spatial_scale)
    inputs = [one.detach().requires_grad_() for one in (features, offset)]
    size = (pooled_height, pooled_width)
    with torch.enable_grad():
        pooled = _pool_moved(inputs[0], rois, inputs[1], size, spatial_scale, sampling_ratio, gamma)
    upstream = grad_output.masked_fill(broken[:, None, None, None], 0.0)
    gradients = torch.autograd.grad(pooled, inputs, upstream, allow_unused=True, materialize_grads=True)
    for target, gradient in zip((grad_input, grad_offset), gradients, strict=True):
        target += gradient


def _require_average(pool_mode: int) -> None:
    if pool_mode == MAX_POOLING:
        raise UnsupportedOpError(
            "mmcv's roi_align with pool_mode='max' has no torchvision kernel: set pool_mode='avg' in the RoI layer"
        )


def _sound(rois: Tensor, images: int, spatial_scale: float, close_inverted: bool = False) -> tuple[Tensor, Tensor]:
    """Regions that every kernel can read, and (R,) which were not: those are at the origin of the first image.

    With `close_inverted`, regions whose last corner comes before the first get no width or height. Both forms have no
    samples where their number adapts to the bins, but torchvision would count less than none.
    """
    first, last = rois[:, 1:3], rois[:, 3:5]
    if close_inverted:
        last = torch.maximum(first, last)
    sound = (rois * spatial_scale).isfinite().all(dim=1) & ((last - first) * spatial_scale).isfinite().all(dim=1)
    sound &= (rois[:, 0] >= 0) & (rois[:, 0] < images)
    return torch.cat([rois[:, :3], last], dim=1).masked_fill(~sound[:, None], 0.0), ~sound


def _too_large(rois: Tensor, size: tuple[int, int], spatial_scale: float, sampling_ratio: int) -> Tensor:
    """Which regions (R,) have more samples than torchvision's kernel for CPUs can keep: it would crash, or take hours.

    Kernels of accelerators keep no table.
    """
    if sampling_ratio > 0 or rois.device.type != "cpu":
        return torch.zeros_like(rois[:, 0], dtype=torch.bool)
    samples = ((rois[:, 3:5] - rois[:, 1:3]).double() * spatial_scale).clamp(min=1.0).prod(dim=1)
    return samples > max(LARGEST_TABLE, 4 * size[0] * size[1])


def _pool_large(features: Tensor, rois: Tensor, size: tuple[int, int], spatial_scale: float, aligned: bool) -> Tensor:
    """RoIAlign with adaptive sampling of regions far larger than their map, as products with interpolation matrices."""
    (x, y), bins, _ = _bins(rois.double(), size, spatial_scale, aligned)
    height, width = features.shape[2:]
    columns = _interpolation(*_samples(x, bins[:, 0], 0, width), width)[:, 0].to(features.dtype)
    rows = _interpolation(*_samples(y, bins[:, 1], 0, height), height)[:, :, 0].to(features.dtype)
    images = rois[:, 0].long().tolist()
    pooled = [row @ (features[i] @ column.T) for i, row, column in zip(images, rows, columns, strict=True)]
    return torch.stack(pooled)


def _interpolation(positions: Tensor, weights: Tensor, limit: int) -> Tensor:
    """Weighted samples (..., n) of a line of pixels as the weight of each pixel (..., limit)."""
    positions = positions.clamp(0, limit - 1)
    low = positions.floor()
    high_share = positions - low
    matrix = weights.new_zeros(*weights.shape[:-1], limit)
    matrix = matrix.scatter_add(-1, low.long(), weights * (1 - high_share))
    return matrix.scatter_add(-1, (low.long() + 1).clamp(max=limit - 1), weights * high_share)


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
    corners, bins, sides = _bins(rois, size, spatial_scale, aligned=True)
    if offset.numel():
        corners = [corner + gamma * sides[:, axis, None, None] * offset[:, axis] for axis, corner in enumerate(corners)]
    channels, height, width = features.shape[1:]
    output = features.new_zeros(len(rois), *size, channels)
    images = rois[:, 0].long()
    for image in images.unique().tolist():
        chosen = (images == image).nonzero()[:, 0]
        x, y = (corner[chosen].expand(-1, *size) for corner in corners)
        samples = [
            *_samples(x, bins[chosen, 0], sampling_ratio, width),
            *_samples(y, bins[chosen, 1], sampling_ratio, height),
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


def _bins(
    rois: Tensor, size: tuple[int, int], spatial_scale: float, aligned: bool
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Where bins begin, x (R, 1, w) and y (R, h, 1); width and height of a bin (R, 2), and of the region (R, 2)."""
    start = rois[:, 1:3] * spatial_scale - (0.5 if aligned else 0.0)
    sides = (rois[:, 3:5] - rois[:, 1:3]) * spatial_scale
    if not aligned:
        sides = sides.clamp(min=1.0)
    bins = sides / sides.new_tensor([size[1], size[0]])
    columns, rows = (torch.arange(count, device=rois.device, dtype=rois.dtype) for count in (size[1], size[0]))
    x = start[:, 0, None, None] + columns * bins[:, 0, None, None]
    y = start[:, 1, None, None] + rows[:, None] * bins[:, 1, None, None]
    return [x, y], bins, sides


def _samples(corners: Tensor, bins: Tensor, sampling_ratio: int, limit: int) -> tuple[Tensor, Tensor]:
    """Positions at which bins (R, h, w) are sampled along one axis, and their weights, (R, h, w, n) both.

    Of bins that reach far beyond the map, only the samples around it are listed, which are half a pixel apart or more.
    """
    bins, corners = bins[:, None, None, None], corners[..., None]
    counts = torch.full_like(bins, sampling_ratio) if sampling_ratio > 0 else bins.ceil().clamp(min=0)
    steps = bins / counts.clamp(min=1)
    most = int(counts.max()) if counts.numel() else 0
    listed = most if sampling_ratio > 0 else min(most, 2 * limit + 4)
    index = torch.arange(listed, device=bins.device, dtype=bins.dtype)
    if listed < most:
        first_inside = ((-1 - corners.detach()) / steps.clamp(min=0.5) - 0.5).ceil()
        index = index + torch.where(counts > listed, first_inside.clamp(min=0), 0.0)
    positions = corners + (index + 0.5) * steps
    inside = (index < counts) & (positions >= -1) & (positions <= limit)
    return positions, inside / counts.clamp(min=1)


def _whole_pixel_bins(rois: Tensor, bins_y: int, bins_x: int, spatial_scale: float, height: int, width: int) -> Tensor:
    """Cuts (R, 5) regions into (R * bins_y * bins_x, 5) rectangles of feature map pixels, last pixels included."""
    count = len(rois)
    start = rois[:, 1:3] * spatial_scale
    size = (rois[:, 3:5] + 1) * spatial_scale - start
    start_x, end_x = _bin_edges(start[:, 0], size[:, 0], bins_x, width)
    start_y, end_y = _bin_edges(start[:, 1], size[:, 1], bins_y, height)
    grid = (count, bins_y, bins_x)
    x1, x2 = start_x[:, None].expand(grid), end_x[:, None].expand(grid)
    y1, y2 = start_y[..., None].expand(grid), end_y[..., None].expand(grid)
    image = rois[:, 0, None, None].expand(grid)
    # Just past the corner of the map torchvision pools nothing: output 0, argmax -1.
    nothing = torch.stack([image, *(torch.full_like(image, edge) for edge in (width, height, width, height))], dim=-1)
    inside = (x1 < x2) & (y1 < y2) & (size > 0).all(dim=1)[:, None, None]
    bins = torch.stack([image, x1, y1, x2 - 1, y2 - 1], dim=-1)
    return torch.where(inside[..., None], bins, nothing).view(-1, 5)


def _bin_edges(start: Tensor, size: Tensor, bins: int, limit: int) -> tuple[Tensor, Tensor]:
    """First pixel and first pixel past each bin, both (R, bins), cut to 0..limit."""
    index = torch.arange(bins, device=start.device, dtype=start.dtype)
    bin_size = size[:, None] / bins
    first = (index * bin_size + start[:, None]).floor().clamp(0, limit)
    past = ((index + 1) * bin_size + start[:, None]).ceil().clamp(0, limit)
    return first, past
