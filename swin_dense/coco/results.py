"""Reads COCO result files: lists of {"image_id", "category_id", "score", and "bbox", "segmentation" or both}."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle_codec

from swin_dense.coco.detections import ImageResults, rle_text
from swin_dense.coco.ground_truth import GroundTruth
from swin_dense.coco.values import is_box, is_id, is_number, read_json
from swin_dense.errors import DataError
from swin_dense.rle import check_rles

_KEY_OF_IOU_TYPE = {"bbox": "bbox", "segm": "segmentation"}

Row = dict[str, Any]


def read_rows(path: Path) -> dict[Path, list[Row]]:
    """Reads one result file, or every *.json of a folder (the shards of one evaluation).

    Args:
        path: The file or folder.

    Returns:
        The rows of every file, so far known to be objects and no more.

    Raises:
        DataError: If a file is missing, not JSON or not a list of objects, or if the folder holds none.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no result file (*.json)")
    return {file: _read_rows(file) for file in files}


def scored_iou_types(rows_of: Mapping[Path, Sequence[Row]], asked: Sequence[str] | None) -> tuple[str, ...]:
    """Settles what the rows are scored on.

    Args:
        rows_of: Rows by file.
        asked: "bbox", "segm" or both; None for all that the rows hold: "bbox" where they have boxes, "segm" where they
            have masks.

    Returns:
        "bbox", "segm" or both; nothing where there are no rows and nothing is asked for.

    Raises:
        DataError: If what the rows hold differs from row to row, or if masks are asked for where there are none.
    """
    held: tuple[str, ...] | None = None
    for file, rows in rows_of.items():
        for index, row in enumerate(rows):
            types = tuple(iou_type for iou_type, key in _KEY_OF_IOU_TYPE.items() if row.get(key))
            held = types if held is None else held
            if not types:
                raise DataError(f"{file}: item {index} has neither 'bbox' nor 'segmentation'")
            if types != held:
                raise DataError(f"{file}: item {index} can be scored on {types}, the items before it on {held}")
    if asked is not None and held is not None and "segm" in asked and "segm" not in held:
        files = ", ".join(map(str, rows_of))
        raise DataError(f"{files}: the predictions have no 'segmentation' to score masks on")
    return tuple(asked or held or ())


def checked_results(
    rows_of: Mapping[Path, Sequence[Row]], truth: GroundTruth, iou_types: Sequence[str]
) -> dict[int, ImageResults]:
    """Checks every row and sorts them by image.

    Args:
        rows_of: Rows by file, all holding the same as `scored_iou_types` has made sure.
        truth: What they are to be scored against.
        iou_types: What they are to be scored on; the boxes of rows that have only masks are those around the masks.

    Returns:
        The detections of every image that has any, in the file's order; their labels are positions in
        `truth.category_names`.

    Raises:
        DataError: If a row lacks a key, names an unknown image or category, has a number that is not finite, or a mask
            that is malformed or not of the image's size; or if two files have rows of one image.
    """
    results: dict[int, ImageResults] = {}
    file_of: dict[int, Path] = {}
    for file, rows in rows_of.items():
        boxes = "bbox" in iou_types and all(row.get("bbox") for row in rows)
        found = _checked_file(file, rows, truth, boxes=boxes, masks="segm" in iou_types or not boxes)
        for image_id in found:
            if image_id in file_of:
                raise DataError(
                    f"{file}: image {image_id} has predictions in {file_of[image_id]} too; keep one of them"
                )
            file_of[image_id] = file
        results |= found
    return results


def _read_rows(file: Path) -> list[Row]:
    rows = read_json(file)
    if not isinstance(rows, list):
        raise DataError(
            f"{file}: is not a COCO result file; it holds a {type(rows).__name__}, not a list of predictions"
        )
    _refuse(file, ((index, "is not an object") for index, row in enumerate(rows) if not isinstance(row, dict)))
    return rows


def _checked_file(
    file: Path, rows: Sequence[Row], truth: GroundTruth, *, boxes: bool, masks: bool
) -> dict[int, ImageResults]:
    labels = {category_id: label for label, category_id in enumerate(truth.category_names)}
    problems = [_problem_of(row, truth, labels, boxes=boxes, masks=masks) for row in rows]
    _refuse(file, ((index, problem) for index, problem in enumerate(problems) if problem))
    counts, areas, xywh = None, None, np.zeros((len(rows), 4))
    if masks:
        pixels = np.array([np.prod(truth.sizes[row["image_id"]]) for row in rows], dtype=np.int64)
        areas, malformed = check_rles([row["segmentation"]["counts"] for row in rows], pixels)
        _refuse(file, ((index, f"its segmentation is no mask: {problem}") for index, problem in malformed.items()))
        counts = [rle_text(row["segmentation"]["counts"]) for row in rows]
    if boxes:
        xywh = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    elif rows:
        xywh = rle_codec.toBbox([row["segmentation"] for row in rows])
    scores = np.array([row["score"] for row in rows], dtype=np.float64)
    label = np.array([labels[row["category_id"]] for row in rows], dtype=np.int64)
    return {
        image_id: ImageResults(
            xywh[index],
            scores[index],
            label[index],
            None if counts is None else tuple(counts[one] for one in index),
            None if areas is None else areas[index],
        )
        for image_id, index in _rows_by_image(rows).items()
    }


def _problem_of(row: Row, truth: GroundTruth, labels: Mapping[int, int], *, boxes: bool, masks: bool) -> str | None:
    image_id, category_id = row.get("image_id"), row.get("category_id")
    if not is_id(image_id) or image_id not in truth.sizes:
        return f"image_id {image_id!r} is not in {truth.source}"
    if not is_id(category_id) or category_id not in labels:
        return f"category_id {category_id!r} is not in {truth.source}"
    if not is_number(row.get("score")):
        return f"score {row.get('score')!r} is not a finite number"
    if boxes and not is_box(row["bbox"]):
        return f"bbox {row['bbox']!r} is not four finite numbers x, y, width, height"
    if masks:
        mask, size = row["segmentation"], list(truth.sizes[image_id])
        if not isinstance(mask, dict) or not isinstance(mask.get("counts"), str):
            return "its segmentation is not a compressed RLE {'size': [height, width], 'counts': string}"
        if mask.get("size") != size:
            return f"its mask is of size {mask.get('size')!r}, image {image_id} of {size}"
    return None


def _rows_by_image(rows: Sequence[Row]) -> dict[int, NDArray[np.int64]]:
    positions: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        positions.setdefault(row["image_id"], []).append(index)
    return {image_id: np.array(index, dtype=np.int64) for image_id, index in positions.items()}


def _refuse(file: Path, problems: Iterable[tuple[int, str]]) -> None:
    lines = [f"item {index}: {problem}" for index, problem in problems]
    if lines:
        raise DataError(f"{file}: {len(lines)} prediction(s) cannot be scored", lines)
