"""The targets of RepPoints V2: the object of each cell, where corners are, what lies inside boxes.

Shapes: P cells, N objects, K classes, (H, W) cells of a level. Boxes are XYXY in pixels. Objects of all sizes may be
none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor

from swin_dense.openmmlab.heads.grid import Grid

UNASSIGNED = -1
"""In an assignment: the cell has no object."""

LEAST_MARGIN = 0.01
"""Pixels that a cell's centre must lie inside the box of its object."""


def object_centers(boxes: Tensor, masks: Tensor | None) -> Tensor:
    """The middle (N, 2) of each box, or the centroid of each mask (N, h, w) where there are masks with pixels."""
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    if masks is None or not len(masks):
        return middles
    columns, rows = masks.sum(dim=1).float(), masks.sum(dim=2).float()
    area = columns.sum(dim=1, keepdim=True)
    moments = [(line * torch.arange(line.shape[1], device=line.device)).sum(dim=1) for line in (columns, rows)]
    centroids = torch.stack(moments, dim=1) / area.clamp(min=1)
    return torch.where(area > 0, centroids, middles)


def assign_nearest(grid: Grid, boxes: Tensor, centers: Tensor, scale: float) -> Tensor:
    """The object of each cell (P,) for the first points: the nearest cell of the level of its size (RepPoints).

    A box of `scale` strides a side suits a level. Distances are in units of the box's width and height. A cell that
    several objects choose takes the nearest.
    """
    if not len(boxes) or not len(grid.xy):
        return grid.xy.new_full((len(grid.xy),), UNASSIGNED, dtype=torch.long)
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    levels = grid.strides.log2()
    wanted = torch.log2(sides / scale).mean(dim=1).trunc().clamp(levels.min(), levels.max())
    distances = ((grid.xy[:, None] - centers) / sides).norm(dim=2)
    distances = distances.masked_fill(levels[:, None] != wanted, torch.inf)
    chosen = distances.argmin(dim=0, keepdim=True)
    claims = torch.full_like(distances, torch.inf).scatter(0, chosen, distances.gather(0, chosen))
    nearest, objects = claims.min(dim=1)
    return torch.where(nearest.isfinite(), objects, UNASSIGNED)


def assign_adaptive(predicted: Tensor, grid: Grid, boxes: Tensor, centers: Tensor, topk: int) -> Tensor:
    """The object of each cell (P,) for refined points and classes, by ATSS (arXiv 1912.02424, algorithm 1).

    The boxes of the first points (P, 4) are predicted; each object has `topk` candidates on each level. mmdet's
    assigner measures distances to the middles of boxes; Mask RepPoints V2 needs those to the masks' centroids.
    """
    if not len(boxes) or not len(predicted):
        return grid.xy.new_full((len(predicted),), UNASSIGNED, dtype=torch.long)
    middles = (predicted[:, :2] + predicted[:, 2:]) / 2
    distances = (middles[:, None] - centers).norm(dim=2)
    candidates, start = [], 0
    for level in torch.split(distances, grid.counts):
        candidates.append(level.topk(min(topk, len(level)), dim=0, largest=False).indices + start)
        start += len(level)
    chosen = torch.cat(candidates)
    overlaps = bbox_overlaps(predicted, boxes).gather(0, chosen)
    threshold = overlaps.mean(dim=0) + overlaps.std(dim=0)
    margins = torch.cat([middles[chosen] - boxes[:, :2], boxes[:, 2:] - middles[chosen]], dim=2)
    is_positive = (overlaps >= threshold) & (margins > LEAST_MARGIN).all(dim=2)
    claims = distances.new_full(distances.shape, -1.0).scatter(0, chosen, overlaps.masked_fill(~is_positive, -1.0))
    best, objects = claims.max(dim=1)
    return torch.where(best >= 0, objects, UNASSIGNED)


@dataclass(frozen=True)
class CornerTargets:
    """The targets of the corner branch for one kind of corner."""

    heatmap: Tensor  # (P,) 1 at the cell nearest to a corner on each level, falling off as a Gaussian around corners
    is_corner: Tensor  # (P,) bool, where it is 1
    offsets: Tensor  # (P, 2) x and y from those cells to the corner in units of the stride; 0 elsewhere


def corner_targets(grid: Grid, corners: Tensor, radii: Tensor) -> CornerTargets:
    """Targets of corners (N, 2) on every level (RepPoints V2, section 3.2), under Gaussians as in CornerNet.

    Gaussians are cut off at radii (N,) in pixels; a third of 2 r + 1 is two standard deviations. Where several corners
    have the same nearest cell, its offset leads to the nearest of them.
    """
    heatmap, offsets = grid.xy.new_zeros(len(grid.xy)), torch.zeros_like(grid.xy)
    is_corner = torch.zeros_like(heatmap, dtype=torch.bool)
    if not len(corners):
        return CornerTargets(heatmap, is_corner, offsets)
    distances = (grid.xy[:, None] - corners).norm(dim=2)
    deviations = (2 * radii + 1) / 6
    bumps = torch.exp(-(distances**2) / (2 * deviations**2)).masked_fill(distances >= radii, 0.0)
    heatmap = bumps.amax(dim=1)
    claims = torch.full_like(distances, torch.inf)
    for level, level_claims in zip(*(torch.split(one, grid.counts) for one in (distances, claims)), strict=True):
        if len(level):
            nearest, cells = level.min(dim=0, keepdim=True)
            level_claims.scatter_(0, cells, nearest)
    closest, objects = claims.min(dim=1)
    is_corner = closest.isfinite()
    offsets[is_corner] = ((corners[objects] - grid.xy) / grid.strides[:, None])[is_corner]
    return CornerTargets(heatmap.masked_fill(is_corner, 1.0), is_corner, offsets)


def gaussian_radii(boxes: Tensor, least_overlap: float) -> Tensor:
    """How many pixels (N,) both corners of a box may be off before its IoU falls below a bound (CornerNet, 3.2).

    The least of three distances: for a box that is shifted, for one that shrinks, and for one that grows.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    total, area = sides.sum(dim=1), sides.prod(dim=1)

    def root(a: float, b: Tensor, c: Tensor, sign: int) -> Tensor:
        return (b + sign * (b**2 - 4 * a * c).clamp(min=0).sqrt()) / (2 * a)

    shifted = root(1.0, total, area * (1 - least_overlap) / (1 + least_overlap), -1)
    shrunk = root(4.0, 2 * total, area * (1 - least_overlap), -1)
    grown = root(4 * least_overlap, -2 * least_overlap * total, area * (least_overlap - 1), 1)
    return torch.stack([shifted, shrunk, grown]).amin(dim=0)


def foreground_weights(boxes: Tensor, labels: Tensor, num_classes: int, size: tuple[int, int], stride: int) -> Tensor:
    """Where the boxes of each class lie (RepPoints V2, section 3.3), each cell weighted by one over the box's area.

    Where boxes of one class overlap, the smallest counts. A box of less than a pixel counts as one pixel. The result is
    (K, H, W), 0 outside all boxes.
    """
    weights = boxes.new_zeros(num_classes, *size)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).clamp(min=1.0)
    first, last = (boxes / stride).floor()[:, :2], (boxes / stride).floor()[:, 2:]
    spans = []
    for axis, cells in enumerate((size[1], size[0])):
        places = torch.arange(cells, device=boxes.device)
        spans.append((places >= first[:, axis, None]) & (places <= last[:, axis, None]))
    columns, rows = spans
    filled = (rows[:, :, None] & columns[:, None]) / areas[:, None, None]
    index = labels[:, None, None].expand_as(filled)
    return weights.scatter_reduce(0, index, filled, "amax")
