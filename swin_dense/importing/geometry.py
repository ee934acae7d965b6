"""Boxes, polygons and masks of annotation tools as objects that lie inside their image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from swin_dense.images.store import MAX_PIXELS
from swin_dense.importing.records import ImportedObject, UnusableError
from swin_dense.records import Rle, Size

Point = tuple[float, float]
Pixels = npt.NDArray[Any]

ROUNDING = 0.5
"""Pixels by which coordinates may leave the image through rounding; cutting off so much is not worth a word."""

CIRCLE_POINTS = 64
"""Corners of the polygon that stands for an ellipse."""


def number(value: Any, what: str = "a coordinate") -> float:
    """A finite number of an attribute or a JSON value."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if isinstance(value, bool) or not math.isfinite(found):
        raise UnusableError("bad-number", f"{what} is {ascii(value)[:40]}, not a finite number", "correct it")
    return found


def pairs(points: Any) -> list[Point]:
    """Points as a JSON file has them, a list of lists of two numbers."""
    if not isinstance(points, list) or not all(isinstance(one, list) and len(one) == 2 for one in points):
        raise UnusableError("bad-shape", "points is no list of pairs", "draw it again")
    return [(number(x), number(y)) for x, y in points]


def whole(value: Any, what: str) -> int:
    """A whole number that may be written as a decimal."""
    found = number(value, what)
    if found != int(found):
        raise UnusableError("bad-number", f"{what} is {found:g}, not a whole number", "correct it")
    return int(found)


def stated_size(height: Any, width: Any) -> Size | None:
    """Height and width as a file states them; None where it does not, or as 0."""
    if height in (None, "", 0, "0") or width in (None, "", 0, "0"):
        return None
    sides = whole(height, "the image's height"), whole(width, "the image's width")
    if min(sides) < 1 or sides[0] * sides[1] > MAX_PIXELS:
        raise UnusableError("bad-size", f"states an image of {sides[1]} x {sides[0]} pixels", "correct the size")
    return sides


def box_object(
    class_name: str, corners: Sequence[float], size: Size, changed: Counter[str], **extra: Any
) -> ImportedObject:
    """A box from left, top, right and bottom, cut to the image of this height and width."""
    left, top, right, bottom = (number(value) for value in corners)
    left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
    _refuse_far((left, top, right, bottom), size)
    inside = (max(left, 0.0), max(top, 0.0), min(right, float(size[1])), min(bottom, float(size[0])))
    width, height = inside[2] - inside[0], inside[3] - inside[1]
    if width <= 0 or height <= 0:
        _refuse_empty(left, top, right, bottom, size)
    if max(abs(a - b) for a, b in zip((left, top, right, bottom), inside, strict=True)) > ROUNDING:
        changed["boxes clipped to the image"] += 1
    return ImportedObject(class_name, (inside[0], inside[1], width, height), width * height, extra=extra)


def polygon_object(
    class_name: str, polygons: Iterable[Sequence[Point]], size: Size, changed: Counter[str], **extra: Any
) -> ImportedObject:
    """An object of one or more polygons, cut to the image; its area is that of the pixels they cover."""
    kept, clipped = [], False
    for points in polygons:
        if len(points) < 3:
            raise UnusableError("few-points", f"a polygon of {len(points)} points", "draw at least three")
        flat = [value for point in points for value in point]
        _refuse_far(flat, size)
        inside = _clip(points, size)
        reach = max(-min(flat), max(flat[::2]) - size[1], max(flat[1::2]) - size[0])
        clipped |= reach > ROUNDING
        if len(inside) >= 3:
            kept.append([value for point in inside for value in point])
    if not kept:
        raise UnusableError("outside", "the polygon lies outside the image", "correct or remove it")
    changed["polygons clipped to the image"] += clipped
    x, y = (np.concatenate([np.array(one[start::2]) for one in kept]) for start in (0, 1))
    left, top, width, height = float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))
    area = float(coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(kept, *size))))
    if width <= 0 or height <= 0 or not area:
        raise UnusableError("no-area", "the polygon covers no pixel", "draw it again or remove it")
    return ImportedObject(class_name, (left, top, width, height), area, kept, extra=extra)


def mask_object(class_name: str, mask: Pixels, **extra: Any) -> ImportedObject:
    """An object of the pixels (H, W) that are not 0."""
    return rle_object(class_name, coco_mask.encode(np.asfortranarray(mask != 0, dtype=np.uint8)), **extra)


def rle_object(class_name: str, rle: Rle, crowd: bool = False, **extra: Any) -> ImportedObject:
    """An object of a sound compressed run-length mask."""
    area = float(coco_mask.area(rle))
    if not area:
        raise UnusableError("no-area", "the mask is empty", "paint it or remove the object")
    left, top, width, height = coco_mask.toBbox(rle).tolist()
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    outline = {"size": [int(side) for side in rle["size"]], "counts": text}
    return ImportedObject(class_name, (left, top, width, height), area, outline, crowd, extra)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0.0) -> list[Point]:
    """Corners of a polygon that stands for an ellipse around (x, y), turned clockwise on the screen."""
    angles = np.arange(CIRCLE_POINTS) * (2 * math.pi / CIRCLE_POINTS)
    points = [(x + radius_x * math.cos(angle), y + radius_y * math.sin(angle)) for angle in angles.tolist()]
    return turned(points, (x, y), degrees)


def turned(points: Sequence[Point], about: Point, degrees: float) -> list[Point]:
    """Points turned clockwise on the screen, whose y axis points down."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    moved = [(x - about[0], y - about[1]) for x, y in points]
    return [(about[0] + x * cosine - y * sine, about[1] + x * sine + y * cosine) for x, y in moved]


def corners_of(left: float, top: float, right: float, bottom: float) -> list[Point]:
    """The four corners of a box."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def with_box_outline(one: ImportedObject) -> ImportedObject:
    """The object with its box for an outline."""
    x, y, width, height = one.box
    flat = [value for point in corners_of(x, y, x + width, y + height) for value in point]
    return ImportedObject(one.class_name, one.box, one.area, [flat], one.crowd, one.extra)


def _refuse_far(values: Sequence[float], size: Size) -> None:
    """Coordinates further away than the image is large were not made for it."""
    for value in values:
        number(value)
    for start, side in ((0, size[1]), (1, size[0])):
        of_axis = values[start::2]
        if min(of_axis) < -side or max(of_axis) > 2 * side:
            message = f"coordinates from {min(of_axis):g} to {max(of_axis):g} are far outside the {side} pixels of the"
            fix = "check that the annotation belongs to this image, and its unit"
            raise UnusableError("far-outside", f"{message} image", fix)


def _refuse_empty(left: float, top: float, right: float, bottom: float, size: Size) -> None:
    shown = f"box from ({left:g}, {top:g}) to ({right:g}, {bottom:g})"
    if left == right or top == bottom:
        raise UnusableError("no-area", f"{shown} has no area", "draw it again or remove it")
    raise UnusableError("outside", f"{shown} lies outside the image of {size[1]} x {size[0]}", "correct or remove it")


def _clip(points: Sequence[Point], size: Size) -> list[Point]:
    """The part of a polygon inside the image, side after side (Sutherland and Hodgman, 1974)."""
    inside = list(points)
    for axis, limit, sign in ((0, 0, 1), (0, size[1], -1), (1, 0, 1), (1, size[0], -1)):
        before, inside = inside, []
        for start, end in zip(before[-1:] + before[:-1], before, strict=True):
            from_start, from_end = sign * (start[axis] - limit), sign * (end[axis] - limit)
            if (from_start < 0) != (from_end < 0):
                part = from_start / (from_start - from_end)
                crossing = [start[0] + part * (end[0] - start[0]), start[1] + part * (end[1] - start[1])]
                crossing[axis] = float(limit)
                inside.append((crossing[0], crossing[1]))
            if from_end >= 0:
                inside.append(end)
    return inside
