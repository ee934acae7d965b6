"""The well-formed part of a COCO instances file as flat NumPy arrays, read without PyTorch.

COCO train2017 holds 860,000 instances with tens of millions of coordinates. As Python objects they take gigabytes, so
each is read, taken apart into columns that grow in the order of the file, and gone; then the columns are sorted.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from swin_dense.coco.parsing import Annotation, read_records, without_garbage_collection
from swin_dense.errors import Finding

Integers = npt.NDArray[np.int64]


class Rows(NamedTuple):
    """Rows of different length, one after another; see `records.Ragged`."""

    values: npt.NDArray[Any]
    offsets: Integers


@without_garbage_collection()
def read_columns(
    source: Path | Mapping[str, Any], *, need_file_names: bool = True
) -> tuple[dict[str, Any], list[Finding]]:
    """The attributes of `CocoInstances`, of arrays and `Rows` instead of tensors; findings say what is left out."""
    records = read_records(source, need_file_names=need_file_names)
    images, categories = records.images, sorted(records.categories, key=attrgetter("id"))
    places = {image.id: place for place, image in enumerate(images)}
    labels = {category.id: label for label, category in enumerate(categories)}
    sizes = chain.from_iterable((image.height, image.width) for image in images)
    columns = {
        "file": records.file,
        "category_ids": tuple(category.id for category in categories),
        "class_names": tuple(category.name for category in categories),
        "supercategories": tuple(str(category.supercategory or "") for category in categories),
        "image_ids": np.fromiter((image.id for image in images), dtype=np.int64),
        "image_sizes": np.fromiter(sizes, dtype=np.int64).reshape(-1, 2),
        "file_names": _joined([image.file_name.encode("utf-8", "surrogateescape") for image in images]),
        **_annotation_columns(records.annotations, places, labels),
    }
    columns["first_annotation"] = np.searchsorted(columns["images"], np.arange(len(images) + 1))
    return columns, records.findings


def _annotation_columns(
    annotations: Iterable[Annotation], image_places: Mapping[int, int], category_labels: Mapping[int, int]
) -> dict[str, Any]:
    """The attributes with a row for each annotation, polygon or run-length mask."""
    ids, places, labels, crowd = array("q"), array("q"), array("q"), array("b")
    boxes, areas = array("d"), array("d")
    polygon_counts, coordinate_counts, coordinates = array("q"), array("q"), array("d")
    rle_counts, rle_sizes = list[bytes](), array("q")
    for one in annotations:
        place, outline = image_places[one.image_id], one.segmentation
        ids.append(one.id)
        places.append(place)
        labels.append(category_labels[one.category_id])
        crowd.append(bool(one.iscrowd))
        boxes.fromlist(one.bbox)
        areas.append(one.area)
        if isinstance(outline, dict):
            polygon_counts.append(-1)
            rle_counts.append(_compressed_counts(outline))
            rle_sizes.fromlist(outline["size"])
            continue
        polygon_counts.append(len(outline))
        for polygon in outline:
            coordinate_counts.append(len(polygon))
            coordinates.fromlist(polygon)
    in_file = np.asarray(places)
    order = np.argsort(in_file, kind="stable")
    counts = np.asarray(polygon_counts)
    has_rle = counts[order] < 0
    masks = np.argsort(in_file[counts < 0], kind="stable")
    polygons = np.argsort(np.repeat(in_file, counts.clip(0)), kind="stable")
    return {
        "ids": np.asarray(ids)[order],
        "images": in_file[order],
        "labels": np.asarray(labels)[order],
        "boxes": np.asarray(boxes).reshape(-1, 4)[order],
        "areas": np.asarray(areas)[order],
        "crowd": np.asarray(crowd)[order].astype(bool),
        "polygons": _taken(coordinates, np.asarray(coordinate_counts), polygons),
        "first_polygon": _offsets(counts[order].clip(0)),
        "rles": _joined([rle_counts[one] for one in masks.tolist()]),
        "rle_rows": np.where(has_rle, np.cumsum(has_rle) - 1, -1),
        "rle_sizes": np.asarray(rle_sizes).reshape(-1, 2)[masks],
    }


def _compressed_counts(rle: Any) -> bytes:
    """Counts of an RLE as the compressed string, which tells the same runs."""
    counts = rle["counts"]
    if isinstance(counts, str):
        return counts.encode("ascii")
    compressed: bytes = coco_mask.frPyObjects(rle, *rle["size"])["counts"]
    return compressed


def _taken(values: array[float], lengths: Integers, rows: Integers) -> Rows:
    """Some rows of joined ones of these lengths, copied whole: one index for each value would take as much again."""
    stops, view = np.cumsum(lengths), memoryview(values)
    places = zip((stops - lengths)[rows].tolist(), stops[rows].tolist(), strict=True)
    joined = bytearray().join([view[start:stop] for start, stop in places])
    return Rows(np.frombuffer(joined, dtype=np.float64), _offsets(lengths[rows]))


def _joined(texts: Sequence[bytes]) -> Rows:
    lengths = np.fromiter(map(len, texts), dtype=np.int64)
    return Rows(np.frombuffer(bytearray().join(texts), dtype=np.uint8), _offsets(lengths))


def _offsets(lengths: Integers) -> Integers:
    """Where each row begins, and the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
