"""COCO detection and instance segmentation metrics, during training and of result files."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from swin_dense.coco.instances import CocoInstances, read_instances
from swin_dense.coco.results import ImageResults, checked_results, image_results, read_rows, scored_iou_types
from swin_dense.coco.rules import apply_rules, refuse_errors
from swin_dense.errors import DataError
from swin_dense.metrics.distributed import merged_on_first_rank, scored_together
from swin_dense.metrics.scoring import COCO_METRICS, ENGINES, IOU_TYPES, CocoResults, check_choices, score
from swin_dense.records import Detections, Rle

_DEFAULT_ENGINE = ENGINES[0]


class CocoMetric:
    """COCO AP and AR of boxes and masks, gathered image by image and scored against the original annotations.

    On several ranks each calls `update` with its own images; an image that two ranks saw counts once. Images without
    detections have to be passed too: `compute` refuses to score when images are missing.

    Example:
        >>> import torch
        >>> from swin_dense.metrics import CocoMetric
        >>> from swin_dense.records import Detections
        >>> truth = {
        ...     "images": [{"id": 1, "height": 100, "width": 120}],
        ...     "categories": [{"id": 7, "name": "cat"}],
        ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 20, 40, 50]}],
        ... }
        >>> metric = CocoMetric(truth, iou_types=("bbox",))
        >>> box, score, label = torch.tensor([[10.0, 20, 50, 70]]), torch.tensor([0.9]), torch.tensor([0])
        >>> metric.update([1], [Detections(box, score, label)])
        >>> round(metric.compute()["bbox"]["AP"], 6)
        1.0
    """

    def __init__(
        self,
        annotations: Path | Mapping[str, Any] | CocoInstances,
        *,
        category_ids: Sequence[int] | None = None,
        class_names: Sequence[str] | None = None,
        image_ids: Collection[int] | None = None,
        iou_types: Sequence[str] = IOU_TYPES,
        engine: str = _DEFAULT_ENGINE,
    ) -> None:
        """Reads and checks the annotations.

        Args:
            annotations: COCO instances JSON: a file, or one inside a zip file written as if that were a folder; what
                it holds; or the annotations that a data set has read already.
            category_ids: Category id of every label 0..K-1; None takes all, ascending, as the data sets here do. Ground
                truth of other categories is not scored.
            class_names: Names of the labels where the caller has them; they have to be the annotations' own.
            image_ids: The images to score, where these are not all that the annotations name.
            iou_types: "bbox", "segm", or both.
            engine: "hotcoco", or its referees "faster-coco-eval" and "pycocotools"; all give the same metrics.

        Raises:
            DataError: The annotations are wrong, or do not hold these categories, names or images.
        """
        check_choices(engine, iou_types)
        self._truth = read_truth(annotations, masks="segm" in iou_types)
        self._sizes = self._truth.sizes
        self._masks: list[Rle] | None = None
        self._category_ids = self._truth.category_ids if category_ids is None else tuple(category_ids)
        self._image_ids = frozenset(self._sizes if image_ids is None else image_ids)
        self._iou_types = tuple(iou_types)
        self._engine = engine
        self._results: dict[int, ImageResults] = {}
        self._check_categories(class_names)
        unknown = sorted(self._image_ids - self._sizes.keys())
        if unknown or not self._image_ids:
            raise DataError(f"{self._truth.file}: no such images to score: {unknown or 'it names none'}")

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What a training may be judged by: "bbox_AP" and the like, for every IoU type that is scored."""
        return tuple(f"{iou_type}_{name}" for iou_type in self._iou_types for name in COCO_METRICS)

    def update(self, image_ids: Sequence[int], detections: Sequence[Detections]) -> None:
        """Takes in the detections of some images.

        Args:
            image_ids: The data set's own ids.
            detections: One per image, also where nothing was found.

        Raises:
            DataError: If an image is unknown, not among those to score, or was seen before (call `reset` between
                evaluations), or if its detections cannot be scored, for instance because of a NaN.
        """
        if len(image_ids) != len(detections):
            raise DataError(f"{len(image_ids)} image ids came with the detections of {len(detections)} images")
        for image_id, found in zip(map(operator.index, image_ids), detections, strict=True):
            if image_id not in self._image_ids:
                known = "is not among the images to score" if image_id in self._sizes else "does not exist"
                raise DataError(f"{self._truth.file}: image {image_id} {known}; predict on the images of this file")
            if image_id in self._results:
                raise DataError(f"image {image_id} has been handed in already; reset the metric between evaluations")
            self._results[image_id] = image_results(
                found,
                image_id=image_id,
                size=self._sizes[image_id],
                class_count=len(self._category_ids),
                masks="segm" in self._iou_types,
            )

    def compute(self) -> CocoResults:
        """Scores what all ranks have seen; every rank has to call it, and every rank gets the same answer.

        Returns:
            By IoU type, the twelve metrics "AP" to "ARl" as floats and "per_class", AP by class name. As in every COCO
            tool -1.0 stands where there is no ground truth to find; nothing is ever NaN, so that it is valid JSON.

        Raises:
            DataError: If not every image has been seen.
        """
        return scored_together(self._results, self._image_ids, self._score, f"{self._truth.file}: ")

    def results(self) -> list[dict[str, Any]]:
        """Returns the detections of all ranks as rows of a COCO result file; every rank has to call it.

        Returns:
            On rank 0, rows {"image_id", "category_id", "bbox": [x, y, width, height], "score"} and, where masks are
            scored, "segmentation", ready for JSON, in the order of image ids. On other ranks, which have nothing to
            write, an empty list.
        """
        merged = merged_on_first_rank(self._results) or {}
        return [row for image_id in sorted(merged) for row in self._rows(image_id, merged[image_id])]

    def reset(self) -> None:
        """Forgets every image, for the next evaluation."""
        self._results = {}

    def _check_categories(self, class_names: Sequence[str] | None) -> None:
        known = dict(zip(self._truth.category_ids, self._truth.class_names, strict=True))
        unknown = [category_id for category_id in self._category_ids if category_id not in known]
        if unknown or not self._category_ids or len(set(self._category_ids)) != len(self._category_ids):
            raise DataError(f"{self._truth.file}: categories {self._category_ids} are not distinct ones of this file")
        names = [known[category_id] for category_id in self._category_ids]
        if class_names is not None and list(class_names) != names:
            raise DataError(
                f"{self._truth.file}: its categories {self._category_ids} are named {names}, not {list(class_names)};"
                " train and evaluate with the same categories in the same order"
            )

    def _score(self, results: Mapping[int, ImageResults]) -> CocoResults:
        if self._masks is None and "segm" in self._iou_types:
            self._masks = self._truth.masks()
        return score(
            self._truth,
            results,
            masks=self._masks,
            image_ids=list(results),
            category_ids=self._category_ids,
            iou_types=self._iou_types,
            engine=self._engine,
        )

    def _rows(self, image_id: int, image: ImageResults) -> list[dict[str, Any]]:
        size = list(self._sizes[image_id])
        columns = (image.labels.tolist(), image.boxes.tolist(), image.scores.tolist())
        rows: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": self._category_ids[label], "bbox": box, "score": confidence}
            for label, box, confidence in zip(*columns, strict=True)
        ]
        if image.counts is not None:
            for row, counts in zip(rows, image.counts, strict=True):
                row["segmentation"] = {"size": size, "counts": counts}
        return rows


def evaluate_coco_files(
    gt: Path, predictions: Path, *, engine: str = _DEFAULT_ENGINE, iou_types: Sequence[str] | None = None
) -> CocoResults:
    """Scores COCO result files against a COCO instances JSON; every image of the ground truth counts.

    Args:
        gt: COCO instances JSON.
        predictions: A COCO result file, or a folder of such files that together make up one evaluation.
        engine: As `CocoMetric` takes it.
        iou_types: "bbox", "segm", or both; None for all that the predictions hold, or, where there are none at all, for
            all that the ground truth holds. "bbox" of predictions that have only masks scores the boxes around them.

    Returns:
        As `CocoMetric.compute`.
    """
    check_choices(engine, IOU_TYPES if iou_types is None else iou_types)
    rows_of = read_rows(predictions)
    iou_types = scored_iou_types(rows_of, iou_types)
    truth = read_truth(gt, masks="segm" in iou_types)
    iou_types = iou_types or (IOU_TYPES if truth.has_outline.all() else ("bbox",))
    results = checked_results(rows_of, truth, iou_types)
    return score(
        truth,
        results,
        masks=truth.masks() if "segm" in iou_types else None,
        image_ids=truth.image_ids.tolist(),
        category_ids=truth.category_ids,
        iou_types=iou_types,
        engine=engine,
    )


def read_truth(annotations: Path | Mapping[str, Any] | CocoInstances, *, masks: bool) -> CocoInstances:
    """The ground truth, by the same rules as training data; images need no file names."""
    if isinstance(annotations, CocoInstances):
        if masks and not annotations.has_outline.all():
            raise DataError(f"{annotations.file}: not every annotation has a mask to score; use iou_types=('bbox',)")
        return annotations
    source = annotations if isinstance(annotations, Mapping) else Path(annotations)
    truth, findings = read_instances(source, need_file_names=False)
    refuse_errors(truth.file, [*findings, *apply_rules(truth, masks=masks)])
    return truth
