"""Regions of interest, where their bins are sampled, and pooling of them from feature maps: RoIAlign and RoIPool.

Regions are rows (image index, x1, y1, x2, y2) in pixels of the image; `spatial_scale` takes them to the feature map.
Shapes: features (B, C, H, W), regions (R, 5), output (R, C, h, w) of bins; n samples of a bin along an axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from swin_dense.errors import UnsupportedOpError
from swin_dense.ops import full_precision, torchvision_kernels


def readable(rois: Tensor, images: int, spatial_scale: float, close_inverted: bool = False) -> tuple[Tensor, Tensor]:
    """Regions that every kernel can read, and which of them (R,) are made up: they are to give NaN and no gradient.

    torchvision's kernels would read foreign memory for a region that is not finite, or of an image that is not there.
    With `close_inverted`, regions whose last corner comes before the first get no width or height: neither form has
    samples where their number adapts to the bins, but torchvision would count less than none.
    """
    first, last = rois[:, 1:3], rois[:, 3:5]
    if close_inverted:
        last = torch.maximum(first, last)
    sound = (rois * spatial_scale).isfinite().all(dim=1) & ((last - first) * spatial_scale).isfinite().all(dim=1)
    sound &= (rois[:, 0] >= 0) & (rois[:, 0] < images)
    return torch.cat([rois[:, :3], last], dim=1).masked_fill(~sound[:, None], 0.0), ~sound


def bins_of(
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


def samples_of(corners: Tensor, bins: Tensor, sampling_ratio: int, limit: int) -> tuple[Tensor, Tensor]:
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


MAX_POOLING = 0

SMALLEST_SHARE = 2**18
"""Values of output for which one more thread is worth its start on the CPU, where torchvision's kernels use one."""

LARGEST_TABLE = 2**20
"""Samples of a region of which torchvision may keep a table on the CPU, at 32 bytes each or more."""

REGIONS_AT_ONCE = 64
"""Regions whose interpolation matrices are in memory together."""


def _in_threads(compute: Callable[[slice], None], count: int, values: Tensor) -> None:
    """Calls a function for all of `count`, on the CPU in as many parts as threads pay for so many values."""
    most = torch.get_num_threads()
    threads = min(most, count, values.numel() // SMALLEST_SHARE)
    if threads <= 1 or not values.is_cpu or torch.compiler.is_compiling():
        compute(slice(0, count))
        return
    bounds = [count * i // threads for i in range(threads + 1)]
    without_gradients = torch.inference_mode if torch.is_inference_mode_enabled() else torch.no_grad

    def share(part: slice) -> None:
        torch.get_num_threads()  # or the thread would take over PyTorch's number later, when it first computes
        torch.set_num_threads(1)  # of this thread, which would start as many again
        try:
            with without_gradients():  # which each thread has to say for itself
                compute(part)
        finally:
            torch.set_num_threads(most)  # what other new threads begin with

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, map(slice, bounds, bounds[1:])))


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
    rois, broken = readable(rois, len(features), spatial_scale, aligned and sampling_ratio <= 0)
    large = _too_large(rois, size, spatial_scale, sampling_ratio)
    small = rois.masked_fill(large[:, None], 0.0)

    def pool(part: slice) -> None:
        pooled = torchvision_kernels.roi_align(features, small[part], spatial_scale, *size, sampling_ratio, aligned)
        output[part].copy_(pooled)

    _in_threads(pool, len(small), output)
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
    rois, broken = readable(rois, len(grad_input), spatial_scale, aligned and sampling_ratio <= 0)
    if grad_output.is_cuda and torch.are_deterministic_algorithms_enabled():  # the kernel adds up in any order
        by_sound = grad_output.masked_fill(broken[:, None, None, None], 0.0)
        add_gradient_in_order(by_sound, rois, grad_input, spatial_scale, sampling_ratio, aligned)
        return
    large = _too_large(rois, size, spatial_scale, sampling_ratio)
    by_small = grad_output.masked_fill((broken | large)[:, None, None, None], 0.0)
    small = rois.masked_fill(large[:, None], 0.0)
    images, channels, *sides = grad_input.shape

    def add(part: slice) -> None:
        share = by_small[:, part]
        grad_input[:, part] += torchvision_kernels._roi_align_backward(
            share, small, spatial_scale, *size, images, share.shape[1], *sides, sampling_ratio, aligned
        )

    _in_threads(add, channels, by_small)
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
    rois, broken = readable(rois, len(features), spatial_scale)
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
    rois, _ = readable(rois, len(grad_input), spatial_scale)
    grad_input += torchvision_kernels._roi_pool_backward(
        grad_output, rois, argmax, spatial_scale, pooled_height, pooled_width, *grad_input.shape
    )


def _require_average(pool_mode: int) -> None:
    if pool_mode == MAX_POOLING:
        raise UnsupportedOpError(
            "mmcv's roi_align with pool_mode='max' has no torchvision kernel: set pool_mode='avg' in the RoI layer"
        )


def _too_large(rois: Tensor, size: tuple[int, int], spatial_scale: float, sampling_ratio: int) -> Tensor:
    """Which regions (R,) have too many samples for torchvision's kernel for CPUs, which would crash, or take hours."""
    if sampling_ratio > 0 or rois.device.type != "cpu":
        return torch.zeros_like(rois[:, 0], dtype=torch.bool)
    samples = ((rois[:, 3:5] - rois[:, 1:3]).double() * spatial_scale).clamp(min=1.0).prod(dim=1)
    return samples > max(LARGEST_TABLE, 4 * size[0] * size[1])


def _pool_large(features: Tensor, rois: Tensor, size: tuple[int, int], spatial_scale: float, aligned: bool) -> Tensor:
    """RoIAlign with adaptive sampling of regions far larger than their map, as products with interpolation matrices."""
    rows, columns = _interpolations(rois, size, features, spatial_scale, 0, aligned)
    images = rois[:, 0].long().tolist()
    pooled = [row @ (features[i] @ column.T) for i, row, column in zip(images, rows, columns, strict=True)]
    return torch.stack(pooled)


def add_gradient_in_order(
    grad_output: Tensor, rois: Tensor, grad_input: Tensor, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> None:
    """Adds the gradient of RoIAlign region by region, so that sums are the same in every run: deterministic mode."""
    size = (grad_output.shape[2], grad_output.shape[3])
    images = rois[:, 0].long().tolist()
    total = torch.zeros_like(grad_input, dtype=grad_output.dtype)
    for start in range(0, len(rois), REGIONS_AT_ONCE):
        part = slice(start, start + REGIONS_AT_ONCE)
        matrices = _interpolations(rois[part], size, total, spatial_scale, sampling_ratio, aligned)
        for i, gradient, row, column in zip(images[part], grad_output[part], *matrices, strict=True):
            total[i] += row.T @ (gradient @ column)
    grad_input += total


def _interpolations(
    rois: Tensor, size: tuple[int, int], features: Tensor, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    """What bins take of each row (R, h, H) and of each column (R, w, W) of their map."""
    (x, y), bins, _ = bins_of(rois.double(), size, spatial_scale, aligned)
    height, width = features.shape[2:]
    columns = _interpolation(*samples_of(x, bins[:, 0], sampling_ratio, width), width)[:, 0].to(features.dtype)
    rows = _interpolation(*samples_of(y, bins[:, 1], sampling_ratio, height), height)[:, :, 0].to(features.dtype)
    return rows, columns


def _interpolation(positions: Tensor, weights: Tensor, limit: int) -> Tensor:
    """Weighted samples (..., n) of a line of pixels as the weight of each pixel (..., limit)."""
    positions = positions.clamp(0, limit - 1)
    low = positions.floor()
    high_share = positions - low
    matrix = weights.new_zeros(*weights.shape[:-1], limit)
    matrix = matrix.scatter_add(-1, low.long(), weights * (1 - high_share))
    return matrix.scatter_add(-1, (low.long() + 1).clamp(max=limit - 1), weights * high_share)


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
