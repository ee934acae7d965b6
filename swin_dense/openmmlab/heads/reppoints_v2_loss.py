"""The losses of RepPoints V2, and their targets: the object of each cell, where corners are, what lies inside boxes.

Shapes: B images, P cells of all levels, N objects of an image, which may be none, K classes, n points of a cell, V
cells of an image outside the padding, (H, W) cells of a level. Boxes are XYXY in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor, nn
from torch.nn import functional

from swin_dense.openmmlab.heads.grid import Grid, to_boxes

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


class InclusiveGIoULoss(nn.Module):
    """Generalised IoU loss (arXiv 1902.09630) of boxes whose last pixel belongs to them: width = x2 - x1 + 1.

    RepPoints V2 measures boxes in units of four strides before it compares them, so the 1 is most of a box there.
    Points start in one place, as boxes without area, and this gives them a gradient that the plain loss lacks.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, predicted: Tensor, target: Tensor, avg_factor: float) -> Tensor:
        """The sum over pairs of boxes (N, 4) XYXY, divided by `avg_factor`; 0 where there are none."""
        overlap = _area(torch.maximum(predicted[:, :2], target[:, :2]), torch.minimum(predicted[:, 2:], target[:, 2:]))
        hull = _area(torch.minimum(predicted[:, :2], target[:, :2]), torch.maximum(predicted[:, 2:], target[:, 2:]))
        sizes = [boxes[:, 2:] - boxes[:, :2] + 1 for boxes in (predicted, target)]
        union = sizes[0].prod(dim=1) + sizes[1].prod(dim=1) - overlap + 1e-6  # a bound would hold inverted boxes fast
        hull = hull + 1e-6
        giou = overlap / union - (hull - union) / hull
        return self.loss_weight * (1 - giou).sum() / avg_factor


class ForegroundFocalLoss(nn.Module):
    """Focal loss of the foreground branch (RepPoints V2, section 3.3), positives and negatives normalised apart.

    Positives are weighted by one over the area of their object, so that large objects count no more than small ones,
    and divided by the sum of these weights; negatives are divided by the number of positives.
    """

    def __init__(self, gamma: float = 2.0, alpha: float = 0.25, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha
        self.loss_weight = loss_weight

    def forward(self, logits: Tensor, weights: Tensor) -> Tensor:
        """The loss of logits of any shape, with the weight of each positive, and 0 for a negative."""
        is_positive = weights > 0
        chance = logits.sigmoid()
        positive = functional.softplus(-logits) * (1 - chance) ** self.gamma * weights
        negative = functional.softplus(logits) * chance**self.gamma * ~is_positive
        positive_mean = positive.sum() / weights.sum().clamp(min=1e-12)
        negative_mean = negative.sum() / is_positive.sum().clamp(min=1)
        return self.loss_weight * (self.alpha * positive_mean + (1 - self.alpha) * negative_mean)


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    """Pixels from one corner to the other, both included; 0 where they lie the other way round."""
    return (bottom_right - top_left + 1).clamp(min=0).prod(dim=1)


@dataclass(frozen=True)
class Losses:
    """The loss of each term; they have no parameters."""

    classes: nn.Module
    first_boxes: nn.Module
    refined_boxes: nn.Module
    heatmap: nn.Module
    offset: nn.Module
    foreground: nn.Module


@dataclass(frozen=True)
class Predictions:
    """Predictions for the cells of all levels, in float32, of one image, or of a batch with a dimension in front."""

    class_logits: Tensor  # (P, K)
    first_points: Tensor  # (P, n, 2) x and y in pixels
    refined_points: Tensor  # likewise
    corner_logits: Tensor  # (P, 2)
    corner_offsets: Tensor  # (P, 4) x and y to the top left, then to the bottom right corner, in units of the stride

    def __getitem__(self, image: int) -> Predictions:
        return Predictions(*(getattr(self, name)[image] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class ImageTargets:
    """The targets of the cells of one image."""

    boxes: Tensor  # (N, 4) of the objects
    labels: Tensor  # (N,) of the objects
    valid: Tensor  # (P,) bool: cells outside the padding; the others learn the foreground alone
    first: Tensor  # (P,) the object whose box the first points are to have, or `UNASSIGNED`
    refined: Tensor  # (P,) the object whose class and box the refined points are to have, or `UNASSIGNED`
    corners: tuple[CornerTargets, CornerTargets]  # top left, bottom right; on the V valid cells


@torch.no_grad()
def image_targets(
    grid: Grid, first_points: Tensor, objects: Any, pad_shape: Sequence[int], settings: Mapping[str, Any], masks: bool
) -> ImageTargets:
    """The targets of one image, of which the first points (P, n, 2) are predicted.

    Objects are mmengine `InstanceData` with `bboxes` and `labels`; with `masks`, their centres are the centroids of
    their masks. `pad_shape` is the size of the image with its own padding, `settings` the head's `train_cfg`.
    """
    boxes, labels = objects.bboxes.float(), objects.labels
    bitmaps = objects.masks.to_tensor(torch.bool, boxes.device) if masks else None
    centers = object_centers(boxes, bitmaps)
    valid = grid.is_inside(pad_shape[0], pad_shape[1])
    cells = grid.select(valid)
    unassigned = torch.full_like(valid, UNASSIGNED, dtype=torch.long)
    first = unassigned.masked_scatter(valid, assign_nearest(cells, boxes, centers, settings["scale"]))
    predicted = to_boxes(first_points)[valid]
    refined = unassigned.masked_scatter(valid, assign_adaptive(predicted, cells, boxes, centers, settings["topk"]))
    radii = gaussian_radii(boxes, settings["corner_overlap"])
    top_left, bottom_right = (corner_targets(cells, corners, radii) for corners in torch.split(boxes, 2, dim=1))
    return ImageTargets(boxes, labels, valid, first, refined, (top_left, bottom_right))


def reppoints_losses(
    predictions: Predictions,
    targets: Sequence[ImageTargets],
    strides: Tensor,
    losses: Losses,
    box_scale: float,
) -> dict[str, Tensor]:
    """Every term but that of the foreground.

    Each is a sum over the cells of the batch, divided by the number of its positive ones; images without any count as
    one. Boxes are compared in units of `box_scale` strides.
    """
    totals = {
        "first": sum(max(1, int((one.first != UNASSIGNED).sum())) for one in targets),
        "refined": sum(max(1, int((one.refined != UNASSIGNED).sum())) for one in targets),
        "corners": [sum(max(1, int(one.corners[kind].is_corner.sum())) for one in targets) for kind in range(2)],
    }
    units = box_scale * strides
    terms: dict[str, list[Tensor]] = {}
    for image, target in enumerate(targets):
        predicted = predictions[image]
        sums = {
            "loss_cls": _class_loss(predicted, target, losses.classes, totals["refined"]),
            "loss_pts_init": _box_loss(
                predicted.first_points, target.first, target.boxes, units, losses.first_boxes, totals["first"]
            ),
            "loss_pts_refine": _box_loss(
                predicted.refined_points, target.refined, target.boxes, units, losses.refined_boxes, totals["refined"]
            ),
            **_corner_losses(predicted, target, losses, totals["corners"]),
        }
        for name, value in sums.items():
            terms.setdefault(name, []).append(value)
    return {name: torch.stack(values).sum() for name, values in terms.items()}


def _class_loss(predicted: Predictions, target: ImageTargets, loss: nn.Module, total: Any) -> Tensor:
    """A positive cell is to score as high as its box is good; others 0 in every class."""
    labels = torch.full_like(target.refined, predicted.class_logits.shape[1])
    quality = predicted.class_logits.new_zeros(len(labels))
    positive = target.refined != UNASSIGNED
    objects = target.refined[positive]
    labels[positive] = target.labels[objects]
    boxes = to_boxes(predicted.refined_points[positive]).detach()
    quality[positive] = bbox_overlaps(boxes, target.boxes[objects], is_aligned=True)
    valid = target.valid
    value: Tensor = loss(predicted.class_logits[valid], (labels[valid], quality[valid]), avg_factor=total)
    return value


def _box_loss(points: Tensor, assigned: Tensor, boxes: Tensor, units: Tensor, loss: nn.Module, total: Any) -> Tensor:
    positive = assigned != UNASSIGNED
    unit = units[positive, None]
    value: Tensor = loss(to_boxes(points[positive]) / unit, boxes[assigned[positive]] / unit, avg_factor=total)
    return value


def _corner_losses(predicted: Predictions, target: ImageTargets, losses: Losses, totals: Any) -> dict[str, Tensor]:
    """The mean of top left and bottom right."""
    heatmaps, offsets = [], []
    for kind, corners in enumerate(target.corners):
        chance = predicted.corner_logits[target.valid, kind].sigmoid()
        heatmaps.append(losses.heatmap(chance, corners.heatmap, avg_factor=totals[kind]))
        found = predicted.corner_offsets[target.valid, 2 * kind : 2 * kind + 2][corners.is_corner]
        offsets.append(losses.offset(found, corners.offsets[corners.is_corner], avg_factor=totals[kind]))
    return {"loss_heatmap": sum(heatmaps) / 2, "loss_offset": sum(offsets) / 2}


def foreground_loss(
    logits: Sequence[Tensor], targets: Sequence[ImageTargets], finest_stride: int, loss: nn.Module
) -> Tensor:
    """The loss of the foreground logits (B, K, H_i, W_i); every level learns the finest one's map, by nearest cell."""
    finest = logits[0]
    size = (finest.shape[2], finest.shape[3])
    weights = torch.stack(
        [foreground_weights(one.boxes, one.labels, finest.shape[1], size, finest_stride) for one in targets]
    )
    by_level = [functional.interpolate(weights, size=level.shape[-2:]).flatten() for level in logits]
    value: Tensor = loss(torch.cat([level.float().flatten() for level in logits]), torch.cat(by_level))
    return value
