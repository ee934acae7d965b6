"""The rules that the values in a COCO instances file must keep; none of them needs an image.

Official COCO breaks some of them a little, and every published result was trained with that: boxes that end just out of
the image, slivers without area. Such findings are warnings, within the tolerances below.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

import numpy as np

from swin_dense.coco.instances import CocoInstances, Selection
from swin_dense.coco.parsing import NAMELESS
from swin_dense.coco.patterns import Bools, Floats, any_of, find_patterns, image_sides, margin_of, outside
from swin_dense.errors import DataError, Finding, Severity
from swin_dense.images.files import escapes
from swin_dense.images.store import MAX_PIXELS
from swin_dense.rle import check_rles

logger = logging.getLogger(__name__)

T = TypeVar("T")

SLIVER = 0.5
"""A box side of zero is a warning where the outline spans at most so many pixels too, else an error."""


def refuse_errors(file: str, findings: Iterable[Finding]) -> None:
    """Stops at errors, and lists them; counts warnings in the log."""
    findings = list(findings)
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    if errors:
        raise DataError(f"{file}: {len(errors)} errors (swin-dense check-data lists all)", errors)
    for kind, count in Counter(finding.kind for finding in findings).items():
        first = next(finding for finding in findings if finding.kind == kind)
        logger.warning("%s: %d x %s (swin-dense check-data shows them): %s", file, count, kind, first)


def apply_rules(annotations: CocoInstances, *, masks: bool = True) -> list[Finding]:
    """All that is wrong with well-formed annotations, errors and warnings, what concerns the whole file first.

    With `masks` every annotation needs an outline; those that are there keep the rules in any case.
    """
    outlines = annotations.outline_extents()
    with np.errstate(invalid="ignore"):  # infinite values are found, and must not warn on the way
        return [
            *find_patterns(annotations, outlines),
            *_sections(annotations),
            *_duplicates(annotations),
            *_images(annotations),
            *_boxes(annotations, outlines),
            *_outlines(annotations, outlines, required=masks),
            *_rles(annotations),
        ]


def _in_annotations(
    annotations: CocoInstances,
    broken: Bools,
    kind: str,
    message: Callable[[int], str],
    fix: str,
    severity: Severity = "error",
) -> Iterator[Finding]:
    """A problem for each annotation that is marked in `broken`, (m,); `message` is given its position."""
    file = annotations.file
    for place in np.flatnonzero(broken).tolist():
        image_id = int(annotations.image_ids[annotations.images[place]])
        yield Finding(kind, file, message(place), fix, image_id, int(annotations.ids[place]), severity)


def _sections(annotations: CocoInstances) -> Iterator[Finding]:
    """There is something in the file."""
    file = annotations.file
    if not len(annotations.image_ids):
        yield Finding("no-images", file, "there is no sound image in it", "list the images")
    if not annotations.category_ids:
        yield Finding("no-categories", file, "there is no sound category in it", "list the categories")
    if not len(annotations.ids):
        fix = "check that this is the right file"
        yield Finding("no-annotations", file, "there is no sound annotation in it", fix, severity="warning")


def _duplicates(annotations: CocoInstances) -> Iterator[Finding]:
    """Ids and category names are given once; one file under two image ids is only odd."""
    file, number = annotations.file, "number them without repeats"
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
        if file_name == NAMELESS.encode():
            continue
        message = f"{count} images have the file {file_name.decode('utf-8', 'replace')!r}"
        yield Finding("duplicate-file-name", file, message, "list each file once", severity="warning")


def _repeated(values: Iterable[T]) -> list[tuple[T, int]]:
    """Values that occur more than once, and how often."""
    return [(value, count) for value, count in Counter(values).items() if count > 1]


def _images(annotations: CocoInstances) -> Iterator[Finding]:
    """File names stay in their folder, and sizes are those of pictures."""
    file = annotations.file
    sizes = annotations.image_sizes.tolist()
    names = [name.decode("utf-8", "replace") for name in annotations.file_names.byte_strings()]
    for image_id, name, (height, width) in zip(annotations.image_ids.tolist(), names, sizes, strict=True):
        if escapes(name):
            fix = "name the file relative to the image folder"
            yield Finding("escaping-file-name", file, f"{name!r} leads out of the image folder", fix, image_id)
        if height * width > MAX_PIXELS:
            message, fix = f"{width} x {height} pixels is more than can be read", "cut it into smaller images"
            yield Finding("oversized-image", file, message, fix, image_id)


def _boxes(annotations: CocoInstances, outlines: Floats) -> Iterator[Finding]:
    """Boxes have an area, lie in the image and fit the outline."""
    boxes = annotations.boxes.numpy()
    sides = boxes[:, 2:]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + sides], axis=1)
    finite = ~any_of(~np.isfinite(corners))
    zero = any_of(sides == 0)
    sliver = zero & ~any_of((sides == 0) & ~(outlines[:, 2:] - outlines[:, :2] <= SLIVER))
    far, near = outside(annotations, corners)
    margin = margin_of(annotations)
    misfit = any_of(np.abs(corners - outlines) > margin) & ~any_of(sides <= 0) & ~far

    def show(place: int) -> str:
        return "bbox [" + ", ".join(f"{value:g}" for value in boxes[place]) + "]"

    def show_sides(place: int) -> str:
        width, height = image_sides(annotations)[place, :2]
        return f"{show(place)} reaches out of the image of {width:g} x {height:g} pixels"

    def show_outline(place: int) -> str:
        left, top, right, bottom = outlines[place]
        return f"{show(place)}, but its outline spans [{left:g}, {top:g}, {right - left:g}, {bottom - top:g}]"

    form = "bbox is [x, y, width, height] in pixels; correct it or remove the annotation"
    flag = partial(_in_annotations, annotations)
    yield from flag(~finite, "non-finite", lambda place: f"{show(place)} is not finite", form)
    yield from flag(any_of(sides < 0), "negative-box", lambda place: f"{show(place)} has a negative side", form)
    yield from flag(zero & ~sliver, "zero-box", lambda place: f"{show(place)} has a side of zero", form)
    yield from flag(sliver, "sliver", lambda place: f"{show(place)} is a line", "training leaves it out", "warning")
    yield from flag(finite & far, "box-outside", show_sides, form)
    yield from flag(finite & near, "box-outside", show_sides, "clip it to the image", "warning")
    yield from flag(finite & misfit, "box-misfit", show_outline, form, "warning")


def _outlines(annotations: CocoInstances, outlines: Floats, *, required: bool) -> Iterator[Finding]:
    """Masks are there if required, areas and coordinates are numbers, outlines lie in the image, crowds are RLE."""
    areas, has_polygons = annotations.areas.numpy(), np.diff(annotations.first_polygon.numpy()) > 0
    finite = ~any_of(~np.isfinite(outlines))
    far, near = outside(annotations, outlines)

    def show(place: int) -> str:
        left, top, right, bottom = outlines[place]
        height, width = annotations.image_sizes[annotations.images[place]].tolist()
        return f"outline from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) reaches out of {width} x {height} pixels"

    flag = partial(_in_annotations, annotations)
    if required:
        missing = ~annotations.has_outline.numpy()
        message, fix = (
            "there is no 'segmentation'",
            "draw it, remove the annotation, or train a detector of boxes alone",
        )
        if missing.all() and len(missing) > 1:  # a data set of boxes: said once, not of every box
            message += f", nor in any of the {len(missing) - 1} other annotations"
            fix = "train a detector of boxes alone, such as faster-rcnn_swin-t_fpn_small-data, or draw the outlines"
            missing[1:] = False
        yield from flag(missing, "no-outline", lambda place: message, fix)
    redraw = "draw the outline again or remove the annotation"
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


def _rles(annotations: CocoInstances) -> Iterator[Finding]:
    """Run-length masks have their image's size, and their runs fill it."""
    places = np.flatnonzero(annotations.rle_rows.numpy() >= 0)
    stated = annotations.rle_sizes.numpy()
    sizes = annotations.image_sizes.numpy()[annotations.images.numpy()[places]]
    misfit = np.zeros(len(annotations.ids), dtype=bool)
    misfit[places] = any_of(stated != sizes)
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
    fix = "encode the mask again with pycocotools"
    yield from _in_annotations(annotations, malformed, "malformed-rle", lambda place: f"RLE: {faulty[place]}", fix)


def find_empty_selection(annotations: CocoInstances, selection: Selection) -> Iterator[Finding]:
    """That no image is left to train on."""
    if not len(selection.images) and len(annotations.image_ids):
        message = f"none of its {len(annotations.image_ids)} images is left to train on: {selection.describe()}"
        fix = "correct the annotations, or keep such images (data.keep_empty, data.min_side)"
        yield Finding("nothing-to-train-on", annotations.file, message, fix)


def compare_categories(train: CocoInstances, val: CocoInstances) -> Iterator[Finding]:
    """That labels of training and validation mean the same."""
    of_train, of_val = (set(zip(one.category_ids, one.class_names, strict=True)) for one in (train, val))
    for name, own, other in (("training", of_train, of_val), ("validation", of_val, of_train)):
        for category_id, class_name in sorted(own - other):
            message = f"category {category_id} {class_name!r} is only in {name}"
            fix = f"list the same categories with the same ids in {train.file} and {val.file}"
            yield Finding("different-categories", train.file, message, fix)
