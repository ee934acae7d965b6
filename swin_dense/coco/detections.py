"""What a detector found in one image, checked and stored compactly for a COCO evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swin_dense.errors import DataError
from swin_dense.records import Detections
from swin_dense.rle import check_rles


@dataclass(frozen=True)
class ImageResults:
    """The detections of one image, compact and checked.

    Attributes:
        boxes: (N, 4) float64 x, y, width, height in pixels.
        scores: (N,) float64.
        labels: (N,) int64, positions in the evaluated category ids.
        counts: N compressed run-length strings of masks of the image's size; None for a box-only detector.
        mask_areas: (N,) int64 pixels of each mask; None likewise.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    counts: tuple[str, ...] | None = None
    mask_areas: NDArray[np.int64] | None = None


def image_results(
    detections: Detections, *, image_id: int, size: tuple[int, int], class_count: int, masks: bool
) -> ImageResults:
    """Checks one image's detections, on any device and of any float type, and stores them compactly on the CPU.

    `size` is that of the image on disk. Masks are left out where they are not scored.
    """
    boxes = detections.boxes.detach().to("cpu", torch.float64).numpy()
    scores = detections.scores.detach().to("cpu", torch.float64).numpy()
    labels = detections.labels.detach().cpu().numpy()
    count = len(scores)
    if boxes.shape != (count, 4) or scores.shape != (count,) or labels.shape != (count,):
        raise DataError(
            f"image {image_id}: shapes of boxes {boxes.shape}, scores {scores.shape} and labels {labels.shape} disagree"
        )
    if labels.dtype.kind not in "iu":
        raise DataError(f"image {image_id}: labels are {labels.dtype}, not integers")
    with np.errstate(invalid="ignore"):
        wrong = {
            "has a box that is not finite": ~np.isfinite(boxes).all(axis=1),
            "has a box whose x2 < x1 or y2 < y1": (boxes[:, 2:] < boxes[:, :2]).any(axis=1),
            "has a score that is not finite": ~np.isfinite(scores),
            f"has a label outside 0..{class_count - 1}": (labels < 0) | (labels >= class_count),
        }
    problems = [
        f"detection {index} {problem}: box {boxes[index].tolist()}, score {scores[index]}, label {labels[index]}"
        for problem, where in wrong.items()
        for index in np.flatnonzero(where)
    ]
    counts, areas = _checked_masks(detections.masks, count, size, problems) if masks else (None, None)
    if problems:
        raise DataError(f"image {image_id}: the detector's output cannot be scored", problems)
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return ImageResults(xywh, scores, labels.astype(np.int64), counts, areas)


def _checked_masks(
    masks: Sequence[Mapping[str, Any]] | None, count: int, size: tuple[int, int], problems: list[str]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    masks = masks or ()
    if len(masks) != count:
        problems.append(
            f"it has {len(masks)} masks for {count} boxes; score a box-only detector on iou_types=('bbox',)"
        )
    for index, mask in enumerate(masks):
        if list(mask["size"]) != list(size):
            problems.append(f"mask {index} is of size {list(mask['size'])}, the image of {list(size)}")
    areas, malformed = check_rles([mask["counts"] for mask in masks], np.full(len(masks), size[0] * size[1]))
    problems += [f"mask {index} is malformed: {problem}" for index, problem in malformed.items()]
    if problems:
        return (), areas
    return tuple(rle_text(mask["counts"]) for mask in masks), areas


def rle_text(counts: str | bytes) -> str:
    """The compressed run lengths as text, the form that JSON can hold."""
    return counts.decode("ascii") if isinstance(counts, bytes) else counts
