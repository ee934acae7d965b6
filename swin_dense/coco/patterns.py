"""What a whole COCO file looks like: mistakes of an export that no annotation shows by itself.

Boxes in other units or of another form, areas that are none, nothing but crowd regions, a root super-category. Each
finding says what the numbers look like and how many they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from swin_dense.coco.instances import CocoInstances
from swin_dense.errors import Finding, Severity
from swin_dense.rle import check_rles

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

ROUNDING = 1.0
"""Pixels that boxes and outlines may reach out of their image without a word."""

MARGIN = (2.0, 0.01)
"""Pixels, or fraction of the image's side where that is more, that they may reach out, or lie apart, with a warning."""

MOST = 0.9
"""Part of the annotations that has to look like a mistake, for it to be one of the whole file."""

SOME = 0.1
"""Part of the boxes that has to be wrong before their form is looked into."""

FEW = 3
"""Boxes that leave their image and are whole as corners: one or two may be so by chance."""

LOOKED_AT = 2000
"""Annotations whose areas are computed, evenly over the file."""


def any_of(marks: Bools) -> Bools:
    """(m,) whether a row of (m, k) has a mark."""
    marked: Bools = np.asarray(marks.any(axis=1))
    return marked


def image_sides(annotations: CocoInstances) -> Floats:
    """(m, 4) width, height, width, height of each annotation's image."""
    sizes: Floats = annotations.image_sizes.numpy()[annotations.images.numpy()].astype(np.float64)
    return sizes[:, [1, 0, 1, 0]]


def margin_of(annotations: CocoInstances) -> Floats:
    """(m, 4) how far off left, top, right and bottom may be."""
    margin: Floats = np.maximum(MARGIN[0], MARGIN[1] * image_sides(annotations))
    return margin


def outside(annotations: CocoInstances, corners: Floats) -> tuple[Bools, Bools]:
    """Which (m, 4) left, top, right, bottom reach out of their image by more than the margin, and which by less."""
    reach = np.concatenate([-corners[:, :2], corners[:, 2:] - image_sides(annotations)[:, 2:]], axis=1)
    far = any_of(reach > margin_of(annotations))
    return far, any_of(reach > ROUNDING) & ~far


def find_patterns(annotations: CocoInstances, outlines: Floats) -> Iterator[Finding]:
    """All that is wrong with the file as a whole; `outlines` are the extents of its polygons."""
    yield from _root_category(annotations)
    if len(annotations.ids):
        yield from _box_form(annotations, outlines)
        yield from _areas(annotations)
        yield from _crowd(annotations)


def _root_category(annotations: CocoInstances) -> Iterator[Finding]:
    """A category that only groups the others: exporters list it, and it would become a class without instances."""
    used = set(annotations.labels.tolist())
    for label, name in enumerate(annotations.class_names):
        parents = {parent for other, parent in enumerate(annotations.supercategories) if other != label}
        if used and label not in used and parents == {name}:
            message = f"category {annotations.category_ids[label]} {name!r} has no annotation and is the supercategory "
            message += "of all others; it becomes a class that is never seen"
            fix = "remove it from the categories of all splits, unless it is a class"
            yield Finding("root-category", annotations.file, message, fix, severity="warning")


def _box_form(annotations: CocoInstances, outlines: Floats) -> Iterator[Finding]:
    """Boxes in relative coordinates; as corners or centres; with x and y swapped."""
    boxes, sides = annotations.boxes.numpy(), image_sides(annotations)
    count = len(boxes)
    finite = ~any_of(~np.isfinite(boxes))
    form = "write bbox as [x, y, width, height] in pixels of the image"
    relative = finite & ~any_of((boxes < 0) | (boxes > 1)) & any_of(boxes > 0) & (sides.max(axis=1) > 4)
    fractions = bool((boxes[relative] % 1).any())
    # A few boxes of whole pixels may well be that small.
    if relative.sum() >= MOST * count and (fractions or count >= 20) or fractions:
        message = (
            f"{int(relative.sum())} of {count} boxes lie in 0..1: these look like relative coordinates, not pixels"
        )
        severity: Severity = "error" if relative.sum() >= SOME * count else "warning"
        yield Finding("relative-boxes", annotations.file, message, form, severity=severity)
        if relative.sum() >= MOST * count:
            return
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    percent = finite & ~any_of((corners < 0) | (corners > 100.5))
    if percent.sum() >= MOST * count >= 20 * MOST and np.quantile(sides.min(axis=1), 0.1) > 200:
        message = (
            f"{int(percent.sum())} of {count} boxes lie in 0..100, of far larger images: these look like percentages"
        )
        yield Finding("relative-boxes", annotations.file, message, form, severity="warning")
    has_outline = np.isfinite(outlines).all(axis=1)
    apart = has_outline & any_of(np.abs(corners - outlines) > margin_of(annotations))
    leaves = finite & outside(annotations, corners)[0]
    wrong = leaves | apart
    if not leaves.any() and apart.sum() < 0.5 * count or wrong.sum() < SOME * count:
        return
    readings = {
        "corners [x1, y1, x2, y2]": boxes,
        "centres [cx, cy, width, height]": np.concatenate(
            [boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1
        ),
        "boxes with x and y swapped, or of images with width and height swapped": corners[:, [1, 0, 3, 2]],
    }
    for what, read in readings.items():
        # It has to explain those that are wrong, and where others would, too, must not contradict the rest.
        fits = finite & ~outside(annotations, read)[0] & ~any_of(read[:, 2:] < read[:, :2])
        fits &= ~has_outline | ~any_of(np.abs(read - outlines) > margin_of(annotations))
        telling = what.startswith("boxes") or (what.startswith("corners") and wrong.sum() >= FEW)
        if fits[wrong].mean() >= MOST and (telling or fits.mean() >= MOST):
            message = f"{int(wrong.sum())} of {count} boxes do not fit their image or outline; these look like {what}"
            yield Finding("box-form", annotations.file, message, form)
            return


def _areas(annotations: CocoInstances) -> Iterator[Finding]:
    """Areas that put instances into the wrong sizes (small, medium, large)."""
    areas, boxes = annotations.areas.numpy(), annotations.boxes.numpy()
    count = len(areas)
    zero = (areas == 0) & (boxes[:, 2:] > 0).all(axis=1)
    looked_at = np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(int))
    expected = np.array([_mask_area(annotations, place) for place in looked_at.tolist()])
    wrong = np.abs(areas[looked_at] - expected) > 0.5 * expected + 16
    fix = "state the area of the mask (of the box, where there is no mask) in pixels"
    harm = "AP of small, medium and large objects will mean nothing"
    if zero.sum() > 0.5 * count:
        message = f"{int(zero.sum())} of {count} annotations state an area of 0: {harm}"
        yield Finding("zero-areas", annotations.file, message, fix, severity="warning")
    elif wrong.sum() > 0.5 * len(looked_at):
        message = (
            f"{int(wrong.sum())} of {len(looked_at)} annotations looked at state an area that is not theirs: {harm}"
        )
        yield Finding("wrong-areas", annotations.file, message, fix, severity="warning")


def _mask_area(annotations: CocoInstances, place: int) -> float:
    """The area that an annotation should state, nearly; NaN where its mask is malformed."""
    row = int(annotations.rle_rows[place])
    if row >= 0:
        pixels = annotations.rle_sizes[row : row + 1].numpy().prod(axis=1)
        areas, faults = check_rles([annotations.rles[row].tobytes()], pixels)
        return np.nan if faults else float(areas[0])
    first, end = annotations.first_polygon[place : place + 2].tolist()
    if first == end:
        return float(annotations.boxes[place, 2] * annotations.boxes[place, 3])
    outlines = (annotations.polygons[one].reshape(-1, 2).T for one in range(first, end))
    return sum(abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2 for x, y in outlines)


def _crowd(annotations: CocoInstances) -> Iterator[Finding]:
    """Crowd regions are not learnt from, and detections on them do not count."""
    count, crowd = len(annotations.ids), int(annotations.crowd.sum())
    fix = "write iscrowd=0 for single objects"
    if crowd == count:
        message = f"all {count} annotations are crowd regions (iscrowd=1): there is nothing to learn from or to score"
        yield Finding("only-crowd", annotations.file, message, fix)
    elif crowd > 0.5 * count:
        message = f"{crowd} of {count} annotations are crowd regions (iscrowd=1), which are not learnt from"
        yield Finding("mostly-crowd", annotations.file, message, fix, severity="warning")
