"""One list of detections out of those that several views of an image gave, class by class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swin_dense.errors import ConfigError, nearest
from swin_dense.ops.nms import GAUSSIAN, LINEAR, softnms

METHODS = ("nms", "vote", "linear_soft_nms", "gaussian_soft_nms", "nmm")
IOU_ALONE = ("vote", "linear_soft_nms", "gaussian_soft_nms")
OVERLAPS = ("iou", "ios")

LOWEST_SOFT_SCORE = 0.001
"""Soft-NMS drops what it has brought below this score, as mmdet does."""

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Merged:
    """What is left of N candidates: (M, 4) XYXY boxes and (M,) scores, best first.

    Attributes:
        members: The positions of the candidates that each is made of, the one that it is named after first.
    """

    boxes: Tensor
    scores: Tensor
    members: list[list[int]]

    def best(self, min_score: float, count: int | None) -> Merged:
        """At most `count` detections of at least `min_score`; None keeps all of these."""
        kept = int((self.scores >= min_score).sum())
        kept = kept if count is None else min(kept, count)
        return Merged(self.boxes[:kept], self.scores[:kept], self.members[:kept])


@dataclass(frozen=True)
class Merging:
    """How candidates of one class that overlap become one detection.

    Attributes:
        method: "nms" drops what overlaps a better candidate; "vote" averages the boxes, weighted by the scores (Gidaris
            and Komodakis 2015), and takes the pixels that most masks hold; "linear_soft_nms" and "gaussian_soft_nms"
            lower its score (Bodla et al. 2017); "nmm", greedy non-maximum merging, unites it with the better one, for
            objects that slices cut in parts (Akyon et al. 2022).
        overlap: "iou", or "ios", intersection over the smaller box, which sees a part in its whole.
        threshold: Overlap above which two candidates are one object; "gaussian_soft_nms" needs none.
        sigma: Width of "gaussian_soft_nms".
    """

    method: str = "nms"
    overlap: str = "iou"
    threshold: float = 0.5
    sigma: float = 0.5

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f'inference.merge: no method "{self.method}"; {nearest(self.method, METHODS)}')
        if self.overlap not in OVERLAPS:
            raise ConfigError(
                f'inference.merge_overlap: no measure "{self.overlap}"; {nearest(self.overlap, OVERLAPS)}'
            )
        if self.method in IOU_ALONE and self.overlap != "iou":
            raise ConfigError(f'inference.merge: {self.method} is made for "iou"; set inference.merge_overlap to it')
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"inference.merge_threshold must lie in 0..1, got {self.threshold}")
        if not self.sigma > 0:
            raise ConfigError(f"inference.soft_nms_sigma must be positive, got {self.sigma}")

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Merged:
        """The detections of (N, 4) XYXY boxes, best first; of equal scores the earlier one counts as the better.

        Classes never touch each other.
        """
        merge: Callable[[Tensor, Tensor], Merged] = self._soften if "soft" in self.method else self._group
        parts: list[Merged] = []
        for label in sorted(set(labels.tolist())):
            places = (labels == label).nonzero().flatten()
            one = merge(boxes[places], scores[places])
            names: list[int] = places.tolist()
            parts.append(Merged(one.boxes, one.scores, [[names[i] for i in group] for group in one.members]))
        return _best_first(parts, boxes, scores)

    def _soften(self, boxes: Tensor, scores: Tensor) -> Merged:
        rows = boxes.new_empty((len(boxes), 5))
        method = LINEAR if self.method == "linear_soft_nms" else GAUSSIAN
        kept = softnms(boxes, scores, rows, self.threshold, self.sigma, LOWEST_SOFT_SCORE, method, offset=0)
        rows = rows[: len(kept)]
        return Merged(rows[:, :4], rows[:, 4], [[i] for i in kept.tolist()])

    def _group(self, boxes: Tensor, scores: Tensor) -> Merged:
        groups = greedy_groups(boxes.numpy(), scores.numpy(), self.overlap, self.threshold)
        best = [group[0] for group in groups]
        if self.method == "nms":
            return Merged(boxes[best], scores[best], [[i] for i in best])
        if self.method == "vote":
            return Merged(torch.stack([_mean(boxes[group], scores[group]) for group in groups]), scores[best], groups)
        united = [torch.cat([boxes[group, :2].amin(dim=0), boxes[group, 2:].amax(dim=0)]) for group in groups]
        return Merged(torch.stack(united), scores[best], groups)


def greedy_groups(boxes: Floats, scores: Floats, overlap: str, threshold: float) -> list[list[int]]:
    """The best box and all that overlap it, then the best of the rest, and so on, as positions, best first.

    Torchvision's NMS neither says which boxes it dropped nor measures overlap in another way. Memory grows with N, not
    with its square: slices of a large image give tens of thousands of boxes.
    """
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order].astype(np.float64)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    rest = np.arange(len(boxes))
    groups: list[list[int]] = []
    while len(rest):
        best = rest[0]
        sides = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2])
        shared = np.prod(np.maximum(sides, 0), axis=1)
        either = areas[best] + areas[rest] - shared if overlap == "iou" else np.minimum(areas[best], areas[rest])
        same = shared > threshold * either
        same[0] = True
        groups.append(order[rest[same]].tolist())
        rest = rest[~same]
    return groups


def _mean(boxes: Tensor, scores: Tensor) -> Tensor:
    """The mean of (N, 4) boxes, weighted by their scores; in float64, so that a single box stays what it is."""
    weights = scores.double().clamp(min=1e-12)
    return ((weights @ boxes.double()) / weights.sum()).to(boxes.dtype)


def _best_first(parts: Sequence[Merged], boxes: Tensor, scores: Tensor) -> Merged:
    """Joins the classes' detections."""
    all_boxes = torch.cat([boxes[:0], *(part.boxes for part in parts)])
    all_scores = torch.cat([scores[:0], *(part.scores for part in parts)])
    members = [group for part in parts for group in part.members]
    order = all_scores.argsort(descending=True, stable=True)
    return Merged(all_boxes[order], all_scores[order], [members[i] for i in order.tolist()])
