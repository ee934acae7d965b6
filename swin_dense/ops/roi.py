"""Pooling of regions of interest from feature maps.

Regions are rows (image index, x1, y1, x2, y2) in pixels of the image; `spatial_scale` takes them to the feature map.
Signatures are those of mmcv's compiled ops, so that its autograd wrappers call them unchanged: forward functions
overwrite `output`, backward functions add to `grad_input`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swin_dense.errors import UnsupportedOpError
from swin_dense.ops.kernels import full_precision, torchvision_kernels

MAX_POOLING = 0


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

    Args:
        input: (B, C, H, W) feature map.
        rois: (R, 5) regions.
        output: (R, C, aligned_height, aligned_width), overwritten.
        argmax_y: Unused, of max pooling.
        argmax_x: Unused, of max pooling.
        aligned_height: Bins per column.
        aligned_width: Bins per row.
        spatial_scale: Feature map pixels per image pixel.
        sampling_ratio: Samples per bin and axis; 0 takes ceil(bin size) of them.
        pool_mode: 0 max, 1 average.
        aligned: Whether a pixel's centre is at half coordinates; False is the older form, which also makes regions at
            least one pixel wide.

    Raises:
        UnsupportedOpError: For max pooling, which torchvision has not.
    """
    _require_average(pool_mode)
    features, rois = full_precision(input, rois)
    pooled = torchvision_kernels.roi_align(
        features, rois, spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
    )
    output.copy_(pooled)


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
    """Gradient of RoIAlign by its feature map.

    Args:
        grad_output: (R, C, aligned_height, aligned_width).
        rois: (R, 5) regions.
        argmax_y: Unused, of max pooling.
        argmax_x: Unused, of max pooling.
        grad_input: (B, C, H, W), added to.
        aligned_height: As in the forward op, like all that follow.
        aligned_width: See above.
        spatial_scale: See above.
        sampling_ratio: See above.
        pool_mode: See above.
        aligned: See above.

    Raises:
        UnsupportedOpError: For max pooling, which torchvision has not.
    """
    _require_average(pool_mode)
    grad_output, rois = full_precision(grad_output, rois)
    grad_input += torchvision_kernels._roi_align_backward(
        grad_output,
        rois,
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )


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
    mmcv's result.

    Args:
        input: (B, C, H, W) feature map.
        rois: (R, 5) regions; x2 and y2 are the last pixels inside.
        output: (R, C, pooled_height, pooled_width), overwritten; 0 for bins outside the map.
        argmax: Same shape, int32, overwritten with y * W + x of the maximum; -1 for bins outside the map.
        pooled_height: Bins per column.
        pooled_width: Bins per row.
        spatial_scale: Feature map pixels per image pixel.
    """
    features, rois = full_precision(input, rois)
    bins = _whole_pixel_bins(rois, pooled_height, pooled_width, spatial_scale, *features.shape[-2:])
    pooled, positions = torchvision_kernels.roi_pool(features, bins, 1.0, 1, 1)
    regions_channels_last = (len(rois), pooled_height, pooled_width, features.shape[1])
    output.copy_(pooled.view(regions_channels_last).permute(0, 3, 1, 2))
    argmax.copy_(positions.view(regions_channels_last).permute(0, 3, 1, 2))


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Gradient of RoIPool by its feature map: each bin's goes to the pixel of its maximum.

    Args:
        grad_output: (R, C, pooled_height, pooled_width).
        rois: (R, 5) regions.
        argmax: Same shape as `grad_output`, from the forward op.
        grad_input: (B, C, H, W), added to.
        pooled_height: As in the forward op, like all that follow.
        pooled_width: See above.
        spatial_scale: See above.
    """
    grad_output, rois = full_precision(grad_output, rois)
    grad_input += torchvision_kernels._roi_pool_backward(
        grad_output, rois, argmax, spatial_scale, pooled_height, pooled_width, *grad_input.shape
    )


def _require_average(pool_mode: int) -> None:
    if pool_mode == MAX_POOLING:
        raise UnsupportedOpError(
            "mmcv's roi_align with pool_mode='max' has no torchvision kernel: set pool_mode='avg' in the RoI layer"
        )


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
