"""The losses of RepPoints V2: what the head says about a batch against what it is to say.

Shapes: B images, P cells of all levels, N objects of an image, K classes, n points of a cell, V cells of an image
that do not lie in the padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor, nn

from swin_dense.openmmlab.heads.grid import Grid, to_boxes
from swin_dense.openmmlab.heads.targets import (
    NOBODY,
    CornerTargets,
    assign_adaptive,
    assign_nearest,
    corner_targets,
    foreground_weights,
    gaussian_radii,
    object_centers,
)


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
    """What the head says about the cells of all levels, in float32; of one image or of a batch in front.

    Attributes:
        class_logits: (P, K).
        first_points: (P, n, 2) x and y in pixels.
        refined_points: Likewise.
        corner_logits: (P, 2).
        corner_offsets: (P, 4) x and y to the top left, then to the bottom right corner, in units of the stride.
    """

    class_logits: Tensor
    first_points: Tensor
    refined_points: Tensor
    corner_logits: Tensor
    corner_offsets: Tensor

    def __getitem__(self, image: int) -> Predictions:
        """Those of one image of a batch."""
        return Predictions(*(getattr(self, name)[image] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class ImageTargets:
    """What the cells of one image are to say.

    Attributes:
        boxes: (N, 4) of the objects.
        labels: (N,) of the objects.
        valid: (P,) bool: cells that do not lie in the padding; all others learn nothing but the foreground.
        first: (P,) the object whose box the first points are to have, or `NOBODY`.
        refined: (P,) the object whose class and box the refined points are to have, or `NOBODY`.
        corners: Of top left and bottom right corners, each on the V valid cells.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    first: Tensor
    refined: Tensor
    corners: tuple[CornerTargets, CornerTargets]


@torch.no_grad()
def image_targets(
    grid: Grid, first_points: Tensor, objects: Any, pad_shape: Sequence[int], settings: Mapping[str, Any], masks: bool
) -> ImageTargets:
    """Works out the targets of one image.

    Args:
        grid: The cells.
        first_points: (P, n, 2) predicted.
        objects: mmengine `InstanceData` with `bboxes`, `labels` and, where `masks`, `masks`.
        pad_shape: Height and width of the image with its own padding.
        settings: The head's `train_cfg`.
        masks: Whether the centre of an object is the centroid of its mask.
    """
    boxes, labels = objects.bboxes.float(), objects.labels
    bitmaps = objects.masks.to_tensor(torch.bool, boxes.device) if masks else None
    centers = object_centers(boxes, bitmaps)
    valid = grid.is_inside(pad_shape[0], pad_shape[1])
    cells = grid.select(valid)
    nobody = torch.full_like(valid, NOBODY, dtype=torch.long)
    first = nobody.masked_scatter(valid, assign_nearest(cells, boxes, centers, settings["scale"]))
    predicted = to_boxes(first_points)[valid]
    refined = nobody.masked_scatter(valid, assign_adaptive(predicted, cells, boxes, centers, settings["topk"]))
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
    one.

    Args:
        predictions: Of the batch.
        targets: Of each image.
        strides: (P,) of the cells.
        losses: The loss of each term.
        box_scale: Boxes are compared in units of so many strides.
    """
    totals = {
        "first": sum(max(1, int((one.first != NOBODY).sum())) for one in targets),
        "refined": sum(max(1, int((one.refined != NOBODY).sum())) for one in targets),
        "corners": [sum(max(1, int(one.corners[kind].is_corner.sum())) for one in targets) for kind in range(2)],
    }
    units = box_scale * strides
    terms: dict[str, list[Tensor]] = {}
    for image, target in enumerate(targets):
        said = predictions[image]
        sums = {
            "loss_cls": _class_loss(said, target, losses.classes, totals["refined"]),
            "loss_pts_init": _box_loss(
                said.first_points, target.first, target.boxes, units, losses.first_boxes, totals["first"]
            ),
            "loss_pts_refine": _box_loss(
                said.refined_points, target.refined, target.boxes, units, losses.refined_boxes, totals["refined"]
            ),
            **_corner_losses(said, target, losses, totals["corners"]),
        }
        for name, value in sums.items():
            terms.setdefault(name, []).append(value)
    return {name: torch.stack(values).sum() for name, values in terms.items()}


def _class_loss(said: Predictions, target: ImageTargets, loss: nn.Module, total: Any) -> Tensor:
    """A positive cell is to score as high as its box is good; others 0 in every class."""
    labels = torch.full_like(target.refined, said.class_logits.shape[1])
    quality = said.class_logits.new_zeros(len(labels))
    positive = target.refined != NOBODY
    objects = target.refined[positive]
    labels[positive] = target.labels[objects]
    boxes = to_boxes(said.refined_points[positive]).detach()
    quality[positive] = bbox_overlaps(boxes, target.boxes[objects], is_aligned=True)
    valid = target.valid
    value: Tensor = loss(said.class_logits[valid], (labels[valid], quality[valid]), avg_factor=total)
    return value


def _box_loss(points: Tensor, assigned: Tensor, boxes: Tensor, units: Tensor, loss: nn.Module, total: Any) -> Tensor:
    positive = assigned != NOBODY
    unit = units[positive, None]
    value: Tensor = loss(to_boxes(points[positive]) / unit, boxes[assigned[positive]] / unit, avg_factor=total)
    return value


def _corner_losses(said: Predictions, target: ImageTargets, losses: Losses, totals: Any) -> dict[str, Tensor]:
    """The mean of top left and bottom right."""
    heatmaps, offsets = [], []
    for kind, corners in enumerate(target.corners):
        chance = said.corner_logits[target.valid, kind].sigmoid()
        heatmaps.append(losses.heatmap(chance, corners.heatmap, avg_factor=totals[kind]))
        predicted = said.corner_offsets[target.valid, 2 * kind : 2 * kind + 2][corners.is_corner]
        offsets.append(losses.offset(predicted, corners.offsets[corners.is_corner], avg_factor=totals[kind]))
    return {"loss_heatmap": sum(heatmaps) / 2, "loss_offset": sum(offsets) / 2}


def foreground_loss(
    logits: Sequence[Tensor], targets: Sequence[ImageTargets], finest_stride: int, loss: nn.Module
) -> Tensor:
    """The loss of the foreground branch; every level learns the finest one's map, cell by nearest cell.

    Args:
        logits: (B, K, H_i, W_i) of each level.
        targets: Of each image.
        finest_stride: Pixels per cell of the first level.
        loss: Takes logits and weights.
    """
    finest = logits[0]
    size = (finest.shape[2], finest.shape[3])
    weights = torch.stack(
        [foreground_weights(one.boxes, one.labels, finest.shape[1], size, finest_stride) for one in targets]
    )
    by_level = [nn.functional.interpolate(weights, size=level.shape[-2:]).flatten() for level in logits]
    value: Tensor = loss(torch.cat([level.float().flatten() for level in logits]), torch.cat(by_level))
    return value
