"""The rules that the values in a COCO instances file must keep; none of them needs an image.

Official COCO breaks some of them a little, and every published result was trained with that: boxes that end just out of
the image, slivers without area. Such findings are warnings, within the tolerances below.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from swin_dense.coco.annotations import CocoAnnotations
from swin_dense.images.names import escapes
from swin_dense.records import Finding, Severity
from swin_dense.rle import check_rles

T = TypeVar("T")
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

ROUNDING = 1.0
"""Pixels that boxes and outlines may reach out of their image without a word."""

MARGIN = (2.0, 0.01)
"""Pixels, or fraction of the image's side where that is more, that they may reach out, or lie apart, with a warning."""

SLIVER = 0.5
"""A box side of zero is a warning where the outline spans at most so many pixels too, else an error."""

MAX_PIXELS = 2**28
"""Largest image; Pillow takes anything larger for an attack on memory."""


def find_problems(annotations: CocoAnnotations, *, masks: bool = True) -> list[Finding]:
    """Applies all rules.

    Args:
        annotations: Well-formed annotations.
        masks: Whether every annotation needs an outline; those that are there keep the rules in any case.

    Returns:
        All that is wrong, errors and warnings, rule by rule.
    """
    outlines = _outline_extents(annotations)
    with np.errstate(invalid="ignore"):  # infinite values are found, and must not warn on the way
        return [
            *_sections(annotations),
            *_duplicates(annotations),
            *_images(annotations),
            *_boxes(annotations, outlines),
            *(_missing_outlines(annotations) if masks else ()),
            *_outlines(annotations, outlines),
            *_rles(annotations),
        ]


def _outline_extents(annotations: CocoAnnotations) -> Floats:
    """(m, 4) left, top, right, bottom of all polygons of each annotation; NaN where it has none."""
    extents = np.full((len(annotations.ids), 4), np.nan)
    first_polygon = annotations.first_polygon.numpy()
    has_polygons = np.diff(first_polygon) > 0
    if has_polygons.any():
        coordinates = annotations.polygons.values.numpy()
        starts = annotations.polygons.offsets.numpy()[first_polygon[:-1][has_polygons]] // 2
        for axis in (0, 1):
            extents[has_polygons, axis] = np.minimum.reduceat(coordinates[axis::2], starts)
            extents[has_polygons, axis + 2] = np.maximum.reduceat(coordinates[axis::2], starts)
    return extents


def _in_annotations(
    annotations: CocoAnnotations,
    broken: Bools,
    kind: str,
    message: Callable[[int], str],
    fix: str,
    severity: Severity = "error",
) -> Iterator[Finding]:
    """A problem for each annotation that is marked in `broken`, (m,); `message` is given its position."""
    file = str(annotations.path)
    for place in np.flatnonzero(broken).tolist():
        image_id = int(annotations.image_ids[annotations.images[place]])
        yield Finding(kind, file, message(place), fix, image_id, int(annotations.ids[place]), severity)


def _sections(annotations: CocoAnnotations) -> Iterator[Finding]:
    """There is something in the file."""
    file = str(annotations.path)
    if not len(annotations.image_ids):
        yield Finding("no-images", file, "there is no sound image in it", "list the images")
    if not annotations.category_ids:
        yield Finding("no-categories", file, "there is no sound category in it", "list the categories")
    if not len(annotations.ids):
        fix = "check that this is the right file"
        yield Finding("no-annotations", file, "there is no sound annotation in it", fix, severity="warning")


def _duplicates(annotations: CocoAnnotations) -> Iterator[Finding]:
    """Ids and category names are given once; one file under two image ids is only odd."""
    file, number = str(annotations.path), "number them without repeats"
    for image_id, count in _repeated(annotations.image_ids.tolist()):
        yield Finding("duplicate-image-id", file, f"{count} images have this id", number, image_id)
    for one, count in _repeated(annotations.ids.tolist()):
        yield Finding("duplicate-annotation-id", file, f"{count} annotations have this id", number, annotation_id=one)
    for one, count in _repeated(annotations.category_ids):
        yield Finding("duplicate-category-id", file, f"{count} categories have the id {one}", number)
    for name, count in _repeated(annotations.class_names):
        message = f"{count} categories are named {name!r}"
        yield Finding("duplicate-category-name", file, message, "give each category its own name")
    for file_name, count in _repeated(annotations.file_names.byte_strings()):
        message = f"{count} images have the file {file_name.decode('utf-8', 'replace')!r}"
        yield Finding("duplicate-file-name", file, message, "list each file once", severity="warning")


def _repeated(values: Iterable[T]) -> list[tuple[T, int]]:
    """Values that occur more than once, and how often."""
    return [(value, count) for value, count in Counter(values).items() if count > 1]


def _images(annotations: CocoAnnotations) -> Iterator[Finding]:
    """File names stay in their folder, and sizes are those of pictures."""
    file = str(annotations.path)
    sizes = annotations.image_sizes.tolist()
    names = [name.decode("utf-8", "replace") for name in annotations.file_names.byte_strings()]
    for image_id, name, (height, width) in zip(annotations.image_ids.tolist(), names, sizes, strict=True):
        if escapes(name):
            fix = "name the file relative to the image folder"
            yield Finding("escaping-file-name", file, f"{name!r} leads out of the image folder", fix, image_id)
        if height * width > MAX_PIXELS:
            message, fix = f"{width} x {height} pixels is more than can be read", "cut it into smaller images"
            yield Finding("oversized-image", file, message, fix, image_id)


def _boxes(annotations: CocoAnnotations, outlines: Floats) -> Iterator[Finding]:
    """Boxes have an area, lie in the image and fit the outline."""
    boxes = annotations.boxes.numpy()
    sides = boxes[:, 2:]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + sides], axis=1)
    finite = ~_any(~np.isfinite(corners))
    zero = _any(sides == 0)
    sliver = zero & ~_any((sides == 0) & ~(outlines[:, 2:] - outlines[:, :2] <= SLIVER))
    far, near = _outside(annotations, corners)
    margin = np.maximum(MARGIN[0], MARGIN[1] * _image_sides(annotations))
    misfit = _any(np.abs(corners - outlines) > margin) & ~_any(sides <= 0) & ~far

    def show(place: int) -> str:
        return "bbox [" + ", ".join(f"{value:g}" for value in boxes[place]) + "]"

    def show_sides(place: int) -> str:
        width, height = _image_sides(annotations)[place, :2]
        return f"{show(place)} reaches out of the image of {width:g} x {height:g} pixels"

    def show_outline(place: int) -> str:
        left, top, right, bottom = outlines[place]
        return f"{show(place)}, but its outline spans [{left:g}, {top:g}, {right - left:g}, {bottom - top:g}]"

    form = "bbox is [x, y, width, height] in pixels; correct it or remove the annotation"
    flag = partial(_in_annotations, annotations)
    yield from flag(~finite, "non-finite", lambda place: f"{show(place)} is not finite", form)
    yield from flag(_any(sides < 0), "negative-box", lambda place: f"{show(place)} has a negative side", form)
    yield from flag(zero & ~sliver, "zero-box", lambda place: f"{show(place)} has a side of zero", form)
    yield from flag(sliver, "sliver", lambda place: f"{show(place)} is a line", "training leaves it out", "warning")
    yield from flag(finite & far, "box-outside", show_sides, form)
    yield from flag(finite & near, "box-outside", show_sides, "clip it to the image", "warning")
    yield from flag(finite & misfit, "box-misfit", show_outline, form, "warning")


def _any(marks: Bools) -> Bools:
    """(m,) whether a row of (m, k) has a mark."""
    marked: Bools = np.asarray(marks.any(axis=1))
    return marked


def _image_sides(annotations: CocoAnnotations) -> Floats:
    """(m, 4) width, height, width, height of each annotation's image."""
    sizes: Floats = annotations.image_sizes.numpy()[annotations.images.numpy()].astype(np.float64)
    return sizes[:, [1, 0, 1, 0]]


def _outside(annotations: CocoAnnotations, corners: Floats) -> tuple[Bools, Bools]:
    """Which (m, 4) left, top, right, bottom reach out of their image by more than the margin, and which by less."""
    sides = _image_sides(annotations)
    reach = np.concatenate([-corners[:, :2], corners[:, 2:] - sides[:, 2:]], axis=1)
    far = _any(reach > np.maximum(MARGIN[0], MARGIN[1] * sides))
    return far, _any(reach > ROUNDING) & ~far


def _missing_outlines(annotations: CocoAnnotations) -> Iterator[Finding]:
    """Instances have a mask."""
    fix = "draw it, remove the annotation, or train a detector of boxes alone"
    missing = ~annotations.has_outline.numpy()
    yield from _in_annotations(annotations, missing, "no-outline", lambda place: "there is no 'segmentation'", fix)


def _outlines(annotations: CocoAnnotations, outlines: Floats) -> Iterator[Finding]:
    """Areas and coordinates are numbers, outlines lie in the image, crowd regions are RLE."""
    areas, has_polygons = annotations.areas.numpy(), np.diff(annotations.first_polygon.numpy()) > 0
    finite = ~_any(~np.isfinite(outlines))
    far, near = _outside(annotations, outlines)

    def show(place: int) -> str:
        left, top, right, bottom = outlines[place]
        height, width = annotations.image_sizes[annotations.images[place]].tolist()
        return f"outline from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) reaches out of {width} x {height} pixels"

    flag = partial(_in_annotations, annotations)
    redraw = "draw the outline anew or remove the annotation"
    faulty_area = ~(np.isfinite(areas) & (areas >= 0))
    yield from flag(faulty_area, "area", lambda place: f"area is {areas[place]:g}", "state the mask's area in pixels")
    yield from flag(
        has_polygons & ~finite, "non-finite", lambda place: "a coordinate of the outline is not finite", redraw
    )
    yield from flag(finite & far, "mask-outside", show, redraw)
    yield from flag(finite & near, "mask-outside", show, "clip it to the image", "warning")
    crowd = has_polygons & annotations.crowd.numpy()
    yield from flag(
        crowd, "crowd-polygon", lambda place: "a crowd region with polygons", "check that iscrowd is meant", "warning"
    )


def _rles(annotations: CocoAnnotations) -> Iterator[Finding]:
    """Run-length masks have their image's size, and their runs fill it."""
    places = np.flatnonzero(annotations.rle_rows.numpy() >= 0)
    stated = annotations.rle_sizes.numpy()
    sizes = annotations.image_sizes.numpy()[annotations.images.numpy()[places]]
    misfit = np.zeros(len(annotations.ids), dtype=bool)
    misfit[places] = _any(stated != sizes)
    _, faults = check_rles(annotations.rles.byte_strings(), stated.prod(axis=1))
    faulty = {int(places[row]): fault for row, fault in faults.items()}
    malformed = np.zeros(len(annotations.ids), dtype=bool)
    malformed[list(faulty)] = True

    def show_sizes(place: int) -> str:
        (height, width), (mask_height, mask_width) = (
            one.tolist()
            for one in (annotations.image_sizes[annotations.images[place]], stated[annotations.rle_rows[place]])
        )
        return f"RLE is {mask_width} wide and {mask_height} high, its image {width} wide and {height} high"

    fix = "RLE size is [height, width]; encode the mask at its image's size"
    yield from _in_annotations(annotations, misfit, "rle-size", show_sizes, fix)
    fix = "encode the mask anew with pycocotools"
    yield from _in_annotations(annotations, malformed, "malformed-rle", lambda place: f"RLE: {faulty[place]}", fix)
