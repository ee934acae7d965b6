"""Regions of interest, their bins, and where bins are sampled.

Regions are rows (image index, x1, y1, x2, y2) in pixels of the image; `spatial_scale` takes them to the feature map.
Shapes: B images, R regions of h * w bins, n samples of a bin along an axis.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
