"""Runs a scoring engine on checked ground truth and checked results."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import faster_coco_eval
import hotcoco
import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from swin_dense.coco.instances import CocoInstances
from swin_dense.coco.results import ImageResults
from swin_dense.errors import DataError, nearest
from swin_dense.records import Rle, Size

ENGINES = ("hotcoco", "faster-coco-eval", "pycocotools")
"""The first is the fastest and the default; all give the same metrics."""

IOU_TYPES = ("bbox", "segm")
COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve metrics, in the order in which every COCO tool prints them."""

CocoResults = dict[str, dict[str, Any]]
"""By IoU type ("bbox", "segm"): each of `COCO_METRICS` as a float, and "per_class", the AP by class name."""


def check_choices(engine: str, iou_types: Sequence[str]) -> None:
    """Refuses an engine that does not exist, and IoU types that do not, are none, or come twice."""
    if engine not in ENGINES:
        raise DataError(f'no scoring engine "{engine}"; {nearest(engine, ENGINES)}')
    if not iou_types or len(set(iou_types)) != len(iou_types) or not set(iou_types) <= set(IOU_TYPES):
        raise DataError(f"iou_types {tuple(iou_types)!r} has to hold 'bbox', 'segm', or both")


def score(
    truth: CocoInstances,
    results: Mapping[int, ImageResults],
    *,
    masks: Sequence[Rle] | None = None,
    image_ids: Sequence[int],
    category_ids: Sequence[int],
    iou_types: Sequence[str],
    engine: str,
) -> CocoResults:
    """Scores detections by COCO's protocol.

    Images, categories and annotations are renumbered, from 1 and in the order of their ids: the engines read an
    annotation id of 0 as "unmatched", and ties between scores are settled by this order. On masks, a detection is
    small, medium or large by its mask's area, on boxes by its box's, also where a result has both. As in every COCO
    tool, -1.0 says that there is no ground truth to find (of this class, or of this size); nothing is ever NaN.

    Args:
        truth: The ground truth.
        results: Detections by image id; an image without an entry counts as one without detections.
        masks: Of all annotations of the ground truth; needed for "segm".
        image_ids: The images to score, at least one.
        category_ids: The categories to score, in the order of labels; ground truth of others is left out.
        iou_types: Of `IOU_TYPES`.
        engine: One of `ENGINES`.
    """
    names = dict(zip(truth.category_ids, truth.class_names, strict=True))
    places = {category_id: place for place, category_id in enumerate(sorted(category_ids))}
    scores: CocoResults = {}
    for iou_type in iou_types:
        sides = engine_sides(
            truth, results, masks=masks, image_ids=image_ids, category_ids=category_ids, iou_type=iou_type
        )
        evaluation = _evaluate(*sides, iou_type, engine)
        stats = evaluation.stats[: len(COCO_METRICS)]
        scores[iou_type] = {name: float(value) for name, value in zip(COCO_METRICS, stats, strict=True)}
        # (IoU thresholds, recall thresholds, categories, areas, detections per image), -1 without ground truth.
        precision = evaluation.eval["precision"][:, :, :, 0, -1]
        scores[iou_type]["per_class"] = {
            names[id_]: _mean_precision(precision[:, :, places[id_]]) for id_ in category_ids
        }
    return scores


def engine_sides(
    truth: CocoInstances,
    results: Mapping[int, ImageResults],
    *,
    masks: Sequence[Rle] | None,
    image_ids: Sequence[int],
    category_ids: Sequence[int],
    iou_type: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is true and what was found as COCO data sets, renumbered as `score` says; the arguments are its own."""
    sizes, names = truth.sizes, dict(zip(truth.category_ids, truth.class_names, strict=True))
    image_numbers = {image_id: number for number, image_id in enumerate(sorted(image_ids), start=1)}
    category_numbers = {category_id: number for number, category_id in enumerate(sorted(category_ids), start=1)}
    images = [
        {"id": number, "height": sizes[image_id][0], "width": sizes[image_id][1]}
        for image_id, number in image_numbers.items()
    ]
    categories = [{"id": number, "name": names[id_]} for id_, number in category_numbers.items()]
    wanted = _truth_rows(truth, image_numbers, category_numbers, masks if iou_type != "bbox" else None)
    found = _result_rows(sizes, results, image_numbers, [category_numbers[id_] for id_ in category_ids], iou_type)
    wanted_side, found_side = (
        {"images": images, "categories": categories, "annotations": rows} for rows in (wanted, found)
    )
    return wanted_side, found_side


def _truth_rows(
    truth: CocoInstances,
    image_numbers: Mapping[int, int],
    category_numbers: Mapping[int, int],
    masks: Sequence[Rle] | None,
) -> list[dict[str, Any]]:
    image_ids = truth.image_ids[truth.images].tolist()
    category_ids = [truth.category_ids[label] for label in truth.labels.tolist()]
    columns = (truth.boxes.tolist(), truth.areas.tolist(), truth.crowd.int().tolist())
    rows: list[dict[str, Any]] = []
    for place, (image_id, category_id, box, area, crowd) in enumerate(
        zip(image_ids, category_ids, *columns, strict=True)
    ):
        if image_id in image_numbers and category_id in category_numbers:
            row = {"image_id": image_numbers[image_id], "category_id": category_numbers[category_id]}
            row |= {"id": len(rows) + 1, "bbox": box, "area": area, "iscrowd": crowd}
            rows.append(row if masks is None else row | {"segmentation": masks[place]})
    return rows


def _result_rows(
    sizes: Mapping[int, Size],
    results: Mapping[int, ImageResults],
    image_numbers: Mapping[int, int],
    category_numbers: Sequence[int],
    iou_type: str,
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for image_id, number in image_numbers.items():
        image = results.get(image_id)
        if image is None:
            continue
        masks, areas = image.counts, image.boxes[:, 2] * image.boxes[:, 3]
        if iou_type != "bbox":
            assert masks is not None and image.mask_areas is not None
            areas = image.mask_areas.astype(np.float64)
        size = list(sizes[image_id])
        columns = (image.boxes.tolist(), image.labels.tolist(), image.scores.tolist(), areas.tolist())
        for index, (box, label, confidence, area) in enumerate(zip(*columns, strict=True)):
            row = {"id": len(rows) + 1, "image_id": number, "category_id": category_numbers[label]}
            row |= {"bbox": box, "score": confidence, "area": area, "iscrowd": 0}
            if iou_type != "bbox" and masks is not None:
                row["segmentation"] = {"size": size, "counts": masks[index]}
            rows.append(row)
    return rows


def _evaluate(wanted: dict[str, Any], found: dict[str, Any], iou_type: str, engine: str) -> Any:
    """Runs an engine and returns its evaluation object, with `stats` and `eval` filled."""
    if engine == "hotcoco":
        return hotcoco_evaluation(wanted, found, iou_type)
    coco = partial(faster_coco_eval.COCO, print_function=_print_nothing)
    evaluation_of = partial(faster_coco_eval.COCOeval_faster, print_function=_print_nothing)
    quiet: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if engine == "pycocotools":
        # It prints unconditionally. Only then: a progress bar on another thread loses what it prints meanwhile.
        coco, evaluation_of, quiet = COCO, COCOeval, contextlib.redirect_stdout(io.StringIO())
    with quiet:
        sides = []
        for dataset in (wanted, found):
            side = coco()
            side.dataset = dataset
            side.createIndex()
            sides.append(side)
        evaluation = evaluation_of(*sides, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def hotcoco_evaluation(wanted: Mapping[str, Any], found: Mapping[str, Any], iou_type: str) -> Any:
    """Hotcoco's evaluation of both sides, which may be asked for more than `stats` and `eval`."""
    truth, results = (hotcoco.COCO({**one, "annotations": _with_text(one["annotations"])}) for one in (wanted, found))
    evaluation = hotcoco.COCOeval(truth, results, iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()  # fills `stats` and prints nothing
    return evaluation


def _with_text(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the counts of their masks as text, which hotcoco reads alone."""
    if not rows or "segmentation" not in rows[0]:
        return list(rows)
    masks = [(row["segmentation"]["size"], row["segmentation"]["counts"]) for row in rows]
    texts = [counts if isinstance(counts, str) else counts.decode("ascii") for _, counts in masks]
    return [
        row | {"segmentation": {"size": size, "counts": text}}
        for row, (size, _), text in zip(rows, masks, texts, strict=True)
    ]


def _print_nothing(*_: object) -> None:
    """Takes the place of the engine's `print`."""


def _mean_precision(precision: NDArray[np.float64]) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0
