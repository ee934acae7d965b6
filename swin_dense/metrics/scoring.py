"""Runs a scoring engine on checked ground truth and checked results."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from swin_dense.records import Rle

ENGINES = ("hotcoco", "faster-coco-eval", "pycocotools")
"""The first is the fastest and the default; all give the same metrics."""

IOU_TYPES = ("bbox", "segm")
COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve metrics, in the order in which every COCO tool prints them."""

FASTER_COCO: tuple[Callable[[], Any], Callable[..., Any]] = (
    partial(faster_coco_eval.COCO, print_function=lambda *_: None),
    partial(faster_coco_eval.COCOeval_faster, print_function=lambda *_: None),
)
"""Data set and evaluation of faster-coco-eval, which print nothing."""

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
        scores[iou_type]["per_class"] = {names[id_]: known_mean(precision[:, :, places[id_]]) for id_ in category_ids}
    return scores


@dataclass(frozen=True)
class EngineSide:
    """What is true, or what was found, in N columns, as engines take it.

    Attributes:
        images: With "id", "height" and "width".
        categories: With "id" and "name".
        image_ids: (N,) int64.
        category_ids: (N,) int64.
        boxes: (N, 4) float64 x, y, width, height in pixels.
        areas: (N,) float64, in pixels, of the mask where masks are scored.
        crowd: (N,) bool.
        scores: (N,) float64 of what was found; None of what is true.
        masks: N, their counts as text, which every engine reads; None where boxes are scored.
    """

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    scores: NDArray[np.float64] | None = None
    masks: list[Any] | None = None

    def data_set(self) -> dict[str, Any]:
        """The same as a COCO data set, with a dict for every annotation, numbered from 1."""
        columns = {
            "id": range(1, len(self.image_ids) + 1),
            "image_id": self.image_ids.tolist(),
            "category_id": self.category_ids.tolist(),
            "bbox": self.boxes.tolist(),
            "area": self.areas.tolist(),
            "iscrowd": self.crowd.astype(int).tolist(),
        }
        if self.scores is not None:
            columns["score"] = self.scores.tolist()
        if self.masks is not None:
            columns["segmentation"] = self.masks
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return {"images": self.images, "categories": self.categories, "annotations": rows}


def engine_sides(
    truth: CocoInstances,
    results: Mapping[int, ImageResults],
    *,
    masks: Sequence[Rle] | None,
    image_ids: Sequence[int],
    category_ids: Sequence[int],
    iou_type: str,
) -> tuple[EngineSide, EngineSide]:
    """What is true and what was found, renumbered as `score` says; the arguments are its own."""
    sizes, names = truth.sizes, dict(zip(truth.category_ids, truth.class_names, strict=True))
    image_numbers = {image_id: number for number, image_id in enumerate(sorted(image_ids), start=1)}
    category_numbers = {category_id: number for number, category_id in enumerate(sorted(category_ids), start=1)}
    images = [
        {"id": number, "height": sizes[image_id][0], "width": sizes[image_id][1]}
        for image_id, number in image_numbers.items()
    ]
    categories = [{"id": number, "name": names[id_]} for id_, number in category_numbers.items()]
    found = {number: results[id_] for id_, number in image_numbers.items() if id_ in results}

    # A number of 0 says that an image or a category does not count.
    true_images = _numbers(truth.image_ids.tolist(), image_numbers)[truth.images.numpy()]
    true_categories = _numbers(truth.category_ids, category_numbers)[truth.labels.numpy()]
    counted = np.flatnonzero((true_images > 0) & (true_categories > 0))
    true_masks, found_masks = None, None
    found_boxes = np.concatenate([np.zeros((0, 4)), *(one.boxes for one in found.values())])
    found_areas = found_boxes[:, 2] * found_boxes[:, 3]
    if iou_type != "bbox":
        assert masks is not None
        true_masks = [_with_text(masks[place]) for place in counted.tolist()]
        found_masks = [
            {"size": [images[number - 1]["height"], images[number - 1]["width"]], "counts": counts}
            for number, one in found.items()
            for counts in one.counts or ()
        ]
        areas = [one.mask_areas for one in found.values() if one.mask_areas is not None]
        found_areas = np.concatenate([np.zeros(0), *areas])
    wanted_side = EngineSide(
        images,
        categories,
        true_images[counted],
        true_categories[counted],
        truth.boxes.numpy()[counted],
        truth.areas.numpy()[counted],
        truth.crowd.numpy()[counted],
        masks=true_masks,
    )
    found_side = EngineSide(
        images,
        categories,
        np.repeat(np.array(list(found), dtype=np.int64), [len(one.scores) for one in found.values()]),
        _numbers(category_ids, category_numbers)[
            np.concatenate([np.zeros(0, dtype=np.int64), *(one.labels for one in found.values())])
        ],
        found_boxes,
        found_areas,
        np.zeros(len(found_boxes), dtype=bool),
        np.concatenate([np.zeros(0), *(one.scores for one in found.values())]),
        found_masks,
    )
    return wanted_side, found_side


def _evaluate(wanted: EngineSide, found: EngineSide, iou_type: str, engine: str) -> Any:
    """Runs an engine and returns its evaluation object, with `stats` and `eval` filled."""
    if engine == "hotcoco":
        return hotcoco_evaluation(wanted, found, iou_type)
    coco, evaluation_of = FASTER_COCO
    quiet: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if engine == "pycocotools":
        # It prints unconditionally. Only then: a progress bar on another thread loses what it prints meanwhile.
        coco, evaluation_of, quiet = COCO, COCOeval, contextlib.redirect_stdout(io.StringIO())
    with quiet:
        return evaluation_of_sides(coco, evaluation_of, [wanted.data_set(), found.data_set()], iou_type)


def evaluation_of_sides(
    coco: Callable[[], Any],
    evaluation_of: Callable[..., Any],
    sides: Sequence[dict[str, Any]],
    iou_type: str,
    most: int | None = None,
) -> Any:
    """The evaluation of an engine with pycocotools' interface; `most` detections of an image count, if stated."""
    data_sets = []
    for side in sides:
        data_set = coco()
        data_set.dataset = side
        data_set.createIndex()
        data_sets.append(data_set)
    evaluation = evaluation_of(*data_sets, iou_type)
    if most is not None:
        evaluation.params.maxDets = [most]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def hotcoco_evaluation(wanted: EngineSide, found: EngineSide, iou_type: str) -> Any:
    """Hotcoco's evaluation of both sides, which may be asked for more than `stats` and `eval`."""
    assert found.scores is not None
    truth = hotcoco.COCO.from_arrays(
        wanted.images,
        wanted.categories,
        wanted.image_ids,
        wanted.category_ids,
        wanted.boxes,
        area=wanted.areas,
        iscrowd=wanted.crowd,
        segmentation=wanted.masks,
    )
    rows = np.column_stack([found.image_ids, found.boxes, found.scores, found.category_ids])
    results = truth.load_res(rows, segmentation=found.masks)
    results.update_anns(ids=np.arange(1, len(rows) + 1), area=found.areas)
    evaluation = hotcoco.COCOeval(truth, results, iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()  # fills `stats` and prints nothing
    return evaluation


def _numbers(ids: Sequence[int], number_of: Mapping[int, int]) -> NDArray[np.int64]:
    """The number of each id; 0 where it has none."""
    return np.array([number_of.get(one, 0) for one in ids], dtype=np.int64)


def _with_text(mask: Rle) -> Rle:
    counts = mask["counts"]
    return mask if isinstance(counts, str) else {"size": mask["size"], "counts": counts.decode("ascii")}


def known_mean(values: NDArray[np.float64]) -> float:
    """The mean of what is known, and not -1; -1 where nothing is."""
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0
