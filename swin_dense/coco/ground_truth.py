"""The ground truth of a COCO evaluation, checked once when it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle_codec

from swin_dense.coco.values import is_box, is_id, is_number, read_json
from swin_dense.errors import DataError
from swin_dense.rle import check_rles

_MOST_PIXELS = 2**31  # the C code that counts mask pixels uses 32-bit integers


@dataclass(frozen=True)
class Annotation:
    """One annotated object.

    Attributes:
        image_id: Id of its image.
        category_id: Id of its category.
        box: x, y, width, height in pixels.
        area: The area that puts it into small, medium or large, as the file gives it; that of the box where there is a
            box alone and none is given.
        crowd: COCO's `iscrowd`: detections on it count neither for nor against.
        rle: Its mask as compressed RLE; None where only boxes are scored.
    """

    image_id: int
    category_id: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool
    rle: Mapping[str, Any] | None


@dataclass(frozen=True)
class GroundTruth:
    """A COCO instances JSON that has passed every check.

    Attributes:
        source: The file, for messages.
        sizes: Height and width in pixels of every image, by image id.
        category_names: Name of every category, by category id.
        annotations: All annotated objects, in the file's order.
        has_masks: Whether their masks were read.
    """

    source: str
    sizes: Mapping[int, tuple[int, int]]
    category_names: Mapping[int, str]
    annotations: Sequence[Annotation]
    has_masks: bool


def read_ground_truth(annotations: Path | Mapping[str, Any], *, masks: bool | None) -> GroundTruth:
    """Reads and checks a COCO instances JSON.

    Args:
        annotations: The file, or what it holds.
        masks: Whether masks are scored, so that every annotation needs a valid `segmentation`; None reads them where
            every annotation has one.

    Returns:
        The checked ground truth; nothing of it is shared with the argument.

    Raises:
        DataError: If it is not COCO, or an image, a category or an annotation is wrong; every problem is listed.
    """
    source, data = ("the ground truth", annotations) if isinstance(annotations, Mapping) else _read(annotations)
    missing = [key for key in ("images", "categories", "annotations") if not isinstance(data.get(key), list)]
    if missing:
        raise DataError(f"{source}: is not a COCO instances JSON; it has no list of {' and of '.join(missing)}")
    problems: list[str] = []
    sizes = _sizes(data["images"], problems)
    names = _category_names(data["categories"], problems)
    records = _sound_annotations(data["annotations"], sizes, names, problems)
    if masks is None:
        masks = all(record.get("segmentation") for record in records)
    rles = _rles(records, sizes, problems) if masks else [None] * len(records)
    if problems:
        raise DataError(f"{source}: {len(problems)} problem(s); correct or remove these items", problems)
    checked = [_annotation(*pair) for pair in zip(records, rles, strict=True)]
    return GroundTruth(source, sizes, names, checked, has_masks=masks)


def _read(path: Path) -> tuple[str, Mapping[str, Any]]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: is not a COCO instances JSON; it holds a {type(data).__name__}, not an object")
    return str(path), data


def _sizes(images: Sequence[Any], problems: list[str]) -> dict[int, tuple[int, int]]:
    sizes: dict[int, tuple[int, int]] = {}
    for index, image in enumerate(images):
        place = f"images[{index}]"
        if not isinstance(image, Mapping) or not is_id(image.get("id")):
            problems.append(f"{place}: has no integer id")
            continue
        height, width = image.get("height"), image.get("width")
        if image["id"] in sizes:
            problems.append(f"{place}: image id {image['id']} is used twice")
        elif not (is_id(height) and is_id(width) and height > 0 and width > 0 and height * width <= _MOST_PIXELS):
            problems.append(
                f"{place} (id {image['id']}): height {height!r} and width {width!r} are not a size in pixels"
            )
        else:
            sizes[image["id"]] = (height, width)
    return sizes


def _category_names(categories: Sequence[Any], problems: list[str]) -> dict[int, str]:
    names: dict[int, str] = {}
    for index, category in enumerate(categories):
        place = f"categories[{index}]"
        if not isinstance(category, Mapping) or not is_id(category.get("id")):
            problems.append(f"{place}: has no integer id")
        elif not isinstance(category.get("name"), str):
            problems.append(f"{place} (id {category['id']}): has no name")
        elif category["id"] in names:
            problems.append(f"{place}: category id {category['id']} is used twice")
        elif category["name"] in names.values():
            problems.append(f"{place} (id {category['id']}): the name {category['name']!r} is used twice")
        else:
            names[category["id"]] = category["name"]
    return names


def _sound_annotations(
    annotations: Sequence[Any], sizes: Mapping[int, Any], names: Mapping[int, str], problems: list[str]
) -> list[Mapping[str, Any]]:
    sound = []
    seen: set[int] = set()
    for index, annotation in enumerate(annotations):
        if not isinstance(annotation, Mapping) or not is_id(annotation.get("id")):
            problems.append(f"annotations[{index}]: has no integer id")
            continue
        problem = _problem_of(annotation, sizes, names)
        if annotation["id"] in seen:
            problem = "its id is used twice"
        seen.add(annotation["id"])
        if problem:
            problems.append(f"annotation {annotation['id']} of image {annotation.get('image_id')!r}: {problem}")
        else:
            sound.append(annotation)
    return sound


def _problem_of(annotation: Mapping[str, Any], sizes: Mapping[int, Any], names: Mapping[int, str]) -> str | None:
    image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
    if not is_id(image_id) or image_id not in sizes:
        return "no such image"
    if not is_id(category_id) or category_id not in names:
        return f"no such category {category_id!r}"
    if not is_box(annotation.get("bbox")):
        return f"bbox {annotation.get('bbox')!r} is not four finite numbers x, y, width, height"
    area = _area(annotation)
    if not is_number(area) or area < 0:
        return f"area {area!r} is not a number of pixels"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd {annotation['iscrowd']!r} is neither 0 nor 1"
    return None


def _area(annotation: Mapping[str, Any]) -> Any:
    """As the file gives it; files of boxes alone may leave it out."""
    area = annotation.get("area")
    if area is None and not annotation.get("segmentation"):
        _, _, width, height = annotation["bbox"]
        return width * height
    return area


def _rles(
    annotations: Sequence[Mapping[str, Any]], sizes: Mapping[int, tuple[int, int]], problems: list[str]
) -> list[Mapping[str, Any] | None]:
    """Brings every segmentation, polygons and uncompressed RLE too, to compressed RLE."""
    rles = []
    for annotation in annotations:
        rle, problem = _compressed(annotation.get("segmentation"), *sizes[annotation["image_id"]])
        if problem:
            problems.append(f"annotation {annotation['id']} of image {annotation['image_id']}: {problem}")
        rles.append(rle)
    given = [index for index, rle in enumerate(rles) if rle]
    pixels = np.array([np.prod(sizes[annotations[index]["image_id"]]) for index in given], dtype=np.int64)
    _, malformed = check_rles([(rles[index] or {})["counts"] for index in given], pixels)
    for index, problem in malformed.items():
        annotation = annotations[given[index]]
        problems.append(
            f"annotation {annotation['id']} of image {annotation['image_id']}: segmentation is no mask: {problem}"
        )
    return rles


def _compressed(segmentation: object, height: int, width: int) -> tuple[Mapping[str, Any] | None, str | None]:
    """Returns the compressed RLE, or None and what is wrong; compressed input passes through, to be checked later."""
    if isinstance(segmentation, Mapping):
        if list(segmentation.get("size", ())) != [height, width]:
            return None, f"segmentation size {segmentation.get('size')!r} is not the image's [{height}, {width}]"
        counts = segmentation.get("counts")
        if not isinstance(counts, list):
            return {"size": [height, width], "counts": counts}, None
        if not all(is_id(run) and run >= 0 for run in counts) or sum(counts) != height * width:
            return None, "the run lengths of its segmentation do not fill the image"
        return rle_codec.frPyObjects({"size": [height, width], "counts": counts}, height, width), None
    if not isinstance(segmentation, list) or not segmentation:
        return None, "has no segmentation, which scoring masks needs"
    reach = 2 * max(height, width)  # real polygons leave the image by a pixel; rasterising costs memory by their length
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return None, "a polygon of its segmentation is not a list of at least three points x, y"
        if not all(is_number(coordinate) and abs(coordinate) <= reach for coordinate in polygon):
            return None, "a polygon of its segmentation has coordinates that are not numbers near the image"
    return rle_codec.merge(rle_codec.frPyObjects(segmentation, height, width)), None


def _annotation(record: Mapping[str, Any], rle: Mapping[str, Any] | None) -> Annotation:
    x, y, width, height = record["bbox"]
    return Annotation(
        image_id=record["image_id"],
        category_id=record["category_id"],
        box=(x, y, width, height),
        area=_area(record),
        crowd=bool(record.get("iscrowd", 0)),
        rle=rle,
    )
