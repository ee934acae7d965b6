"""What a detector found, checked and stored compactly for a COCO evaluation: in memory, or in result files.

Result files are lists of {"image_id", "category_id", "score", and "bbox", "segmentation" or both}.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as rle_codec

from swin_dense.coco.instances import CocoInstances
from swin_dense.coco.parsing import NAMELESS, read_json
from swin_dense.errors import DataError
from swin_dense.records import Detections, Size
from swin_dense.rle import check_rles

logger = logging.getLogger(__name__)

_KEY_OF_IOU_TYPE = {"bbox": "bbox", "segm": "segmentation"}

Row = dict[str, Any]


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
    counts = (mask["counts"] for mask in masks)
    return tuple(one.decode("ascii") if isinstance(one, bytes) else one for one in counts), areas


def read_rows(path: Path) -> dict[Path, list[Row]]:
    """The rows, so far only known to be objects, of a result file, or of every *.json of a folder (shards)."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no result file (*.json)")
    rows_of = {}
    for file in files:
        rows = rows_of[file] = read_json(file)
        if not isinstance(rows, list):
            raise DataError(
                f"{file}: is not a COCO result file; it holds a {type(rows).__name__}, not a list of predictions"
            )
        _refuse(file, ((index, "is not an object") for index, row in enumerate(rows) if not isinstance(row, dict)))
    return rows_of


def scored_iou_types(rows_of: Mapping[Path, Sequence[Row]], asked: Sequence[str] | None) -> tuple[str, ...]:
    """What the rows are scored on: "bbox", "segm" or both; nothing where there are no rows and nothing is asked for.

    Unless it is asked for, it is all that the rows hold: "bbox" where they have boxes, "segm" where they have masks.
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
    rows_of: Mapping[Path, Sequence[Row]], truth: CocoInstances, iou_types: Sequence[str]
) -> dict[int, ImageResults]:
    """Checks every row, and sorts them by image; labels are those of `truth`.

    All rows hold the same, as `scored_iou_types` makes sure. The boxes of rows that have only masks are those around
    the masks.
    """
    results: dict[int, ImageResults] = {}
    file_of: dict[int, Path] = {}
    names = _FileNames(truth)
    for file, given in rows_of.items():
        rows = _with_categories_of(truth, file, names.join(file, given))
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


class _FileNames:
    """Image ids by file name, for rows that have a `file_name`: the ids of `predict` are positions in its inputs."""

    def __init__(self, truth: CocoInstances) -> None:
        pairs = zip(truth.image_ids.tolist(), truth.file_names.texts(), strict=True)
        self.truth = truth
        self.by_id = {image_id: name for image_id, name in pairs if name != NAMELESS}
        self.by_tail: dict[str, list[int]] = {}
        for image_id, name in self.by_id.items():
            self.by_tail.setdefault(name.rpartition("/")[2], []).append(image_id)

    def join(self, file: Path, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows with the ids of the images that their file names mean, where they mean others."""
        frames = {
            (row["image_id"], row["frame"])
            for row in rows
            if type(row.get("frame")) is int and type(row.get("image_id")) is int
        }
        if len(frames) > len({image_id for image_id, _ in frames}):
            raise DataError(
                f"{file}: frames of a video have one image_id, that of its position; write the ids that they have as "
                f"images in {self.truth.file}"
            )
        named = {
            (row.get("image_id"), row["file_name"])
            for row in rows
            if isinstance(row.get("file_name"), str) and type(row.get("image_id")) is int
        }
        wrong = [pair for pair in named if self.by_id and not _is_same(pair[1], self.by_id.get(pair[0]))]
        if not wrong:
            return rows
        image_ids = {name: self._image_of(name) for _, name in named}
        if None in image_ids.values() or not all(isinstance(row.get("file_name"), str) for row in rows):
            index, row = next(
                (i, row) for i, row in enumerate(rows) if (row.get("image_id"), row.get("file_name")) in wrong
            )
            image_id, meant = row["image_id"], self.by_id.get(row["image_id"])
            whose = f"is {meant!r}" if meant else "does not exist"
            raise DataError(
                f"{file}: item {index} is of the file {row['file_name']!r}, but image {image_id} in {self.truth.file} "
                f"{whose}; write the ids of its images (those of `predict` are positions)"
            )
        logger.warning("%s: image_id is no id of %s (a position?); rows are joined by file_name", file, self.truth.file)
        return [row | {"image_id": image_ids[row["file_name"]]} for row in rows]

    def _image_of(self, file_name: str) -> int | None:
        """The one image whose name is the end of a path, or the other way round."""
        tail = file_name.replace("\\", "/").rpartition("/")[2]
        found = [image_id for image_id in self.by_tail.get(tail, ()) if _is_same(file_name, self.by_id[image_id])]
        exact = [image_id for image_id in found if self.by_id[image_id] == file_name]
        found = exact or found
        return found[0] if len(found) == 1 else None


def _with_categories_of(truth: CocoInstances, file: Path, rows: Sequence[Row]) -> Sequence[Row]:
    """The rows with the ids of the categories that they name, where they mean others.

    The ids of `predict` are those of the data that a model was trained on, and the same classes may have other ids
    elsewhere.
    """
    name_of = dict(zip(truth.category_ids, truth.class_names, strict=True))
    id_of = {name: category_id for category_id, name in name_of.items() if truth.class_names.count(name) == 1}
    named = {
        (row["category"], row["category_id"])
        for row in rows
        if type(row.get("category")) is str and type(row.get("category_id")) is int
    }
    wrong = {pair for pair in named if name_of.get(pair[1]) != pair[0]}
    if not wrong:
        return rows
    for name, category_id in sorted(wrong):
        if name not in id_of and category_id in name_of:
            raise DataError(
                f"{file}: rows of the category {name!r} have the category_id {category_id}, which is "
                f"{name_of[category_id]!r} in {truth.file}; write the names and ids of its categories"
            )
    logger.warning("%s: category_id is another one in %s; rows are joined by category", file, truth.file)
    meant = (id_of.get(str(row.get("category", "")), row.get("category_id")) for row in rows)
    return [row | {"category_id": category_id} for row, category_id in zip(rows, meant, strict=True)]


def _is_same(path: str, other: str | None) -> bool:
    """Whether one of two paths is the end of the other."""
    if other is None:
        return False
    parts, others = path.replace("\\", "/").split("/"), other.replace("\\", "/").split("/")
    count = min(len(parts), len(others))
    return parts[-count:] == others[-count:]


def _checked_file(
    file: Path, rows: Sequence[Row], truth: CocoInstances, *, boxes: bool, masks: bool
) -> dict[int, ImageResults]:
    labels = {category_id: label for label, category_id in enumerate(truth.category_ids)}
    sizes = truth.sizes
    problems = [_problem_of(row, truth.file, sizes, labels, boxes=boxes, masks=masks) for row in rows]
    _refuse(file, ((index, problem) for index, problem in enumerate(problems) if problem))
    counts, areas, xywh = None, None, np.zeros((len(rows), 4))
    if masks:
        pixels = np.array([np.prod(sizes[row["image_id"]]) for row in rows], dtype=np.int64)
        counts = [row["segmentation"]["counts"] for row in rows]
        areas, malformed = check_rles(counts, pixels)
        _refuse(file, ((index, f"its segmentation is no mask: {problem}") for index, problem in malformed.items()))
    if boxes:
        xywh = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    elif rows:
        xywh = rle_codec.toBbox([row["segmentation"] for row in rows])
    scores = np.array([row["score"] for row in rows], dtype=np.float64)
    label = np.array([labels[row["category_id"]] for row in rows], dtype=np.int64)
    positions: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        positions.setdefault(row["image_id"], []).append(index)
    return {
        image_id: ImageResults(
            xywh[index],
            scores[index],
            label[index],
            None if counts is None else tuple(counts[one] for one in index),
            None if areas is None else areas[index],
        )
        for image_id, index in positions.items()
    }


def _problem_of(
    row: Row, truth: str, sizes: Mapping[int, Size], labels: Mapping[int, int], *, boxes: bool, masks: bool
) -> str | None:
    image_id, category_id = row.get("image_id"), row.get("category_id")
    if type(image_id) is not int or image_id not in sizes:
        return f"image_id {image_id!r} is not in {truth}"
    if type(category_id) is not int or category_id not in labels:
        return f"category_id {category_id!r} is not in {truth}"
    if not _is_number(row.get("score")):
        return f"score {row.get('score')!r} is not a finite number"
    if boxes and not _is_box(row["bbox"]):
        return f"bbox {row['bbox']!r} is not four finite numbers x, y, width, height"
    if masks:
        mask, size = row["segmentation"], list(sizes[image_id])
        if not isinstance(mask, dict) or not isinstance(mask.get("counts"), str):
            return "its segmentation is not a compressed RLE {'size': [height, width], 'counts': string}"
        if mask.get("size") != size:
            return f"its mask is of size {mask.get('size')!r}, image {image_id} of {size}"
    return None


def _refuse(file: Path, problems: Iterable[tuple[int, str]]) -> None:
    lines = [f"item {index}: {problem}" for index, problem in problems]
    if lines:
        raise DataError(f"{file}: {len(lines)} prediction(s) cannot be scored", lines)


def _is_number(value: object) -> bool:
    """Whether a JSON value is a number that a float holds: no NaN, infinity, true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_box(value: object) -> bool:
    """Whether a JSON value is a COCO box: finite x, y, width, height with no negative width or height."""
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value)) and min(value[2:]) >= 0
