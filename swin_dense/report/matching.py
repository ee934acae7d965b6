"""Detections matched with the ground truth by hotcoco, from a run or from files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swin_dense.coco.instances import CocoInstances, images_beside
from swin_dense.coco.results import ImageResults, checked_results, read_rows, scored_iou_types
from swin_dense.images.store import ImageStore
from swin_dense.metrics.coco import read_truth
from swin_dense.metrics.scoring import COCO_METRICS, IOU_TYPES, EngineSide, engine_sides, hotcoco_evaluation
from swin_dense.records import Detections, Instances
from swin_dense.report.confusion import BINS


class Evaluated:
    """Detections of one kind, matched with the ground truth.

    Attributes:
        engine: Hotcoco's evaluation, accumulated and summarised.
        diagnostics: Its `image_diagnostics` at an IoU of 0.5.
    """

    def __init__(self, sides: tuple[EngineSide, EngineSide], kind: str) -> None:
        self.truth, self.found = (side.data_set()["annotations"] for side in sides)
        self.engine: Any = hotcoco_evaluation(*sides, kind)
        self.diagnostics: dict[str, Any] = self.engine.image_diagnostics(iou_thr=0.5, score_thr=0.5)

    @cached_property
    def scores(self) -> dict[str, float]:
        """COCO's twelve."""
        return dict(zip(COCO_METRICS, map(float, self.engine.stats), strict=True))

    @cached_property
    def sweep(self) -> dict[str, NDArray[np.float64]]:
        """By confidence, best first: "score", and "precision", "recall" and "f1" of all that is at least that sure."""
        statuses = self.diagnostics["dt_status"]
        counted = [row for row in self.found if statuses.get(row["id"]) in ("tp", "fp")]
        score = np.array([row["score"] for row in counted])
        order = np.argsort(-score, kind="stable")
        score = score[order]
        last = np.flatnonzero(np.diff(score, append=-1.0))  # of equal ones
        right = np.array([statuses[row["id"]] == "tp" for row in counted], dtype=float)[order]
        hits, wanted = np.cumsum(right)[last], sum(not row["iscrowd"] for row in self.truth)
        kept = last + 1.0
        return {
            "score": score[last],
            "precision": hits / kept,
            "recall": hits / max(wanted, 1),
            "f1": 2 * hits / (kept + wanted),
        }

    @cached_property
    def calibration(self) -> dict[str, Any]:
        """Hotcoco's, of the confidence: "ece" and "mce", the expected and the largest error, and "bins"."""
        calibration: dict[str, Any] = self.engine.calibration(n_bins=BINS, iou_threshold=0.5)
        return calibration

    @property
    def threshold(self) -> float:
        """The confidence at which F1 is best."""
        return float(self.sweep["score"][self.sweep["f1"].argmax()]) if len(self.sweep["f1"]) else 0.5


@dataclass(frozen=True)
class DetectionEvidence:
    """What a detector found, beside what is there.

    Attributes:
        truth: The annotations.
        results: By image id.
        image_ids: The images that count.
        kinds: Of "bbox" and "segm", what is scored.
        read: Reads an image (3, H, W) by its id and name; None where there are no images.
    """

    truth: CocoInstances
    results: Mapping[int, ImageResults]
    image_ids: Sequence[int]
    kinds: Sequence[str]
    read: Callable[[str], Any] | None

    @cached_property
    def masks(self) -> list[Any] | None:
        """Of all annotations, where they are needed."""
        return self.truth.masks() if "segm" in self.kinds else None

    @cached_property
    def evaluated(self) -> dict[str, Evaluated]:
        """By kind."""
        options: Any = {"masks": self.masks, "image_ids": self.image_ids, "category_ids": self.truth.category_ids}
        return {
            kind: Evaluated(engine_sides(self.truth, self.results, iou_type=kind, **options), kind)
            for kind in self.kinds
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes."""
        return self.truth.class_names


def detections_in_files(gt: Path, predictions: Path, images: Path | None) -> DetectionEvidence:
    """Of a COCO instances JSON and result files, as `evaluate_coco_files` takes them, and a folder or zip of images.

    Without `images` they are looked for as in official COCO.
    """
    rows_of = read_rows(predictions)
    kinds = scored_iou_types(rows_of, None)
    truth = read_truth(gt, masks="segm" in kinds)
    kinds = kinds or (IOU_TYPES if truth.has_outline.all() else IOU_TYPES[:1])
    if "bbox" not in kinds:
        kinds = (*IOU_TYPES[:1], *kinds)  # around the masks
    folder = images or images_beside(gt)
    read = None if folder is None else ImageStore(folder).read
    return DetectionEvidence(truth, checked_results(rows_of, truth, kinds), truth.image_ids.tolist(), kinds, read)


def detections_of(results: ImageResults | None, size: tuple[int, int]) -> Detections:
    """Checked results in the form in which they are drawn."""
    if results is None:
        return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), None)
    boxes = torch.from_numpy(results.boxes).float()
    masks = None
    if results.counts is not None:
        masks = [{"size": list(size), "counts": one.encode("ascii")} for one in results.counts]
    corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
    return Detections(corners, torch.from_numpy(results.scores).float(), torch.from_numpy(results.labels), masks)


def instances_of(truth: CocoInstances, row: int, masks: bool = True) -> Instances:
    """The annotated objects of an image in the form in which they are drawn, with `masks` where all have some."""
    places = torch.arange(*truth.first_annotation[row : row + 2].tolist())
    return truth.instances(row, places, masks=masks and len(places) > 0 and bool(truth.has_outline[places].all()))
