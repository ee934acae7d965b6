"""What COCO's engines compute beside the twelve metrics, as CSV: boundary IoU, LVIS, and every class and size."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from swin_dense.coco.instances import CocoInstances
from swin_dense.coco.parsing import read_json
from swin_dense.coco.results import ImageResults, checked_results, read_rows, scored_iou_types
from swin_dense.files import atomic_write
from swin_dense.metrics.coco import read_truth
from swin_dense.metrics.scoring import (
    COCO_METRICS,
    FASTER_COCO,
    IOU_TYPES,
    engine_sides,
    evaluation_of_sides,
    known_mean,
)

SIZES = ("all", "small", "medium", "large")
"""COCO's areas: below 32 x 32 pixels, below 96 x 96, and above."""

LVIS_DETECTIONS = 300
"""Of an image, the best that count in LVIS."""

LVIS_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
"""The last three: of classes in up to 10, up to 100, and more training images."""


def write_coco_tables(
    gt: Path, predictions: Path, folder: Path, image_ids: Sequence[int] | None = None
) -> dict[str, dict[str, float]]:
    """Writes `summary.csv`, `classes.csv` and `sizes.csv` of COCO result files into a folder.

    Args:
        gt: COCO instances JSON; where its images state `neg_category_ids`, LVIS's metrics are computed, too.
        predictions: As `evaluate_coco_files` takes them.
        folder: Where to write.
        image_ids: The images that count; None for all.

    Returns:
        The rows of `summary.csv`: metrics in 0..1 by name, by kind: "bbox", "segm", "boundary" (boundary IoU, Cheng et
        al., 2021, where there are masks), and "lvis bbox" and "lvis segm". -1 where there is nothing to find.
    """
    rows_of = read_rows(predictions)
    kinds = scored_iou_types(rows_of, None) or IOU_TYPES[:1]
    truth = read_truth(gt, masks="segm" in kinds)
    results = checked_results(rows_of, truth, kinds)
    ids = truth.image_ids.tolist() if image_ids is None else list(image_ids)
    masks = truth.masks() if "segm" in kinds else None
    summary: dict[str, dict[str, float]] = {}
    classes: list[list[Any]] = []
    sizes: list[list[Any]] = []
    for kind in (*kinds, *(("boundary",) if "segm" in kinds else ())):
        evaluation = _evaluation(truth, results, masks, ids, kind)
        stats = evaluation.stats[: len(COCO_METRICS)]
        summary[kind] = {name: float(value) for name, value in zip(COCO_METRICS, stats, strict=True)}
        precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
        for place, name in enumerate(truth.class_names):
            of_class = [precision[:, :, place, 0, -1], precision[0, :, place, 0, -1], precision[5, :, place, 0, -1]]
            of_sizes = [precision[:, :, place, size, -1] for size in (1, 2, 3)]
            classes.append([kind, name, *map(known_mean, (*of_class, *of_sizes, recall[:, place, 0, -1]))])
        for size, name in enumerate(SIZES):
            parts = precision[..., size, -1], precision[0, ..., size, -1], precision[5, ..., size, -1]
            sizes.append([kind, name, *map(known_mean, (*parts, recall[..., size, -1]))])
    content = read_json(gt)
    if any("neg_category_ids" in image for image in content["images"]):
        for kind in kinds:
            evaluation = _evaluation(truth, results, masks, ids, kind, content)
            stats = [*evaluation.all_stats[:6], *evaluation.all_stats[-3:]]
            summary[f"lvis {kind}"] = {name: float(value) for name, value in zip(LVIS_METRICS, stats, strict=True)}
    names = list(dict.fromkeys((*COCO_METRICS, *(name for one in summary.values() for name in one))))
    _write(folder / "summary.csv", ["kind", *names], [[kind, *map(one.get, names)] for kind, one in summary.items()])
    _write(folder / "classes.csv", ["kind", "class", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"], classes)
    _write(folder / "sizes.csv", ["kind", "size", "AP", "AP50", "AP75", "AR100"], sizes)
    return summary


def write_class_table(scores: Mapping[str, Any], folder: Path) -> None:
    """Writes `classes.csv` of the metrics by class that label maps or classes are scored by."""
    per_class = scores["per_class"]
    keys = [key for key in next(iter(per_class.values())) if key != "taken_for"]
    rows = [[name, *(one[key] for key in keys)] for name, one in per_class.items()]
    _write(folder / "classes.csv", ["class", *keys], rows)


def _evaluation(
    truth: CocoInstances,
    results: Mapping[int, ImageResults],
    masks: Sequence[Any] | None,
    image_ids: Sequence[int],
    kind: str,
    lvis: Mapping[str, Any] | None = None,
) -> Any:
    """The engine's evaluation; `lvis` is what the annotation file holds, whose protocol is kept."""
    options: Any = {"masks": masks, "image_ids": image_ids, "category_ids": truth.category_ids, "iou_type": kind}
    sides = [side.data_set() for side in engine_sides(truth, results, **options)]
    if lvis is not None:
        numbers = {category_id: number for number, category_id in enumerate(truth.category_ids, start=1)}
        images = {image["id"]: image for image in lvis["images"]}
        for row, image_id in zip(sides[0]["images"], sorted(image_ids), strict=True):
            for key in ("neg_category_ids", "not_exhaustive_category_ids"):
                row[key] = [numbers[one] for one in images[image_id].get(key, ()) if one in numbers]
        frequency = {category["id"]: category.get("frequency", "f") for category in lvis["categories"]}
        for row, category_id in zip(sides[0]["categories"], truth.category_ids, strict=True):
            row["frequency"] = frequency[category_id]
    coco, evaluation_of = FASTER_COCO
    in_style = partial(evaluation_of, lvis_style=lvis is not None)
    return evaluation_of_sides(coco, in_style, sides, kind, None if lvis is None else LVIS_DETECTIONS)


def _write(path: Path, headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Writes a table; a number that there is none of, and -1, are empty cells."""
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(headings)
        for row in rows:
            absent = [one is None or isinstance(one, float) and (np.isnan(one) or one == -1) for one in row]
            table.writerow(["" if gone else one for one, gone in zip(row, absent, strict=True)])
