"""CVAT: one XML file "CVAT for images 1.1" with boxes, polygons, ellipses and masks in pixels of the image as shown."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from swin_dense.importing.files import SPLITS, SourceImages, annotation_files, folder_of, xml_root
from swin_dense.importing.geometry import (
    Point,
    box_object,
    corners_of,
    ellipse,
    mask_object,
    number,
    polygon_object,
    stated_size,
    turned,
    whole,
)
from swin_dense.importing.records import Imported, ImportedImage, ImportedObject, UnusableError
from swin_dense.records import Size

SHAPES = ("box", "polygon", "ellipse", "mask", "polyline", "points", "cuboid", "skeleton")


def read_cvat(source: Path) -> Imported:
    """Reads every XML file with the root `annotations` below a folder, or the one that is named."""
    root, imported = folder_of(source), Imported("cvat")
    images = SourceImages(root)
    for path in annotation_files(source, ".xml"):
        with imported.dropping(path):
            document = xml_root(path)
            if document.tag != "annotations":
                raise UnusableError("not-cvat", f"its root is <{document.tag}>", "remove it, or export it from CVAT")
            if document.find("track") is not None:
                raise UnusableError("video", "has tracks of a video", 'export it as "CVAT for images 1.1"')
            names = [(label.findtext("name") or "").strip() for label in document.iterfind("./meta//labels/label")]
            imported.classes += [name for name in dict.fromkeys(names) if name and name not in imported.classes]
            for place, element in enumerate(document.iterfind("image")):
                with imported.dropping(path, element.get("name") or f"image {place}"):
                    imported.images.append(_image(path, element, images, imported))
    images.drop_unused(imported, "export the task that it belongs to, too")
    return imported


def _image(path: Path, element: Element, images: SourceImages, imported: Imported) -> ImportedImage:
    name = images.find(element.get("name") or "", path.parent)
    size = stated_size(element.get("height"), element.get("width")) or images.size(name)
    groups: dict[tuple[str, ...], list[tuple[str, Element]]] = {}
    for place, shape in enumerate(one for one in element if one.tag in SHAPES):
        group = shape.get("group_id") or "0"
        key = (str(place),) if group == "0" else (shape.get("label") or "", group)
        groups.setdefault(key, []).append((f"shape {place + 1}", shape))
    objects = []
    for parts in groups.values():
        with imported.dropping(path, f"{name}, {', '.join(item for item, _ in parts)}"):
            objects.append(_object([shape for _, shape in parts], size, imported))
    split = SPLITS.get((element.get("subset") or "").lower())
    shown = name.removeprefix("images/")
    return ImportedImage(images.root / name, shown, size, tuple(objects), split)


def _object(shapes: list[Element], size: Size, imported: Imported) -> ImportedObject:
    """One shape, or the parts of one object: shapes of one label in a group."""
    name = (shapes[0].get("label") or "").strip()
    if not name:
        raise UnusableError("no-class", "has no label", "label it")
    extra = {"occluded": 1} if any(shape.get("occluded") == "1" for shape in shapes) else {}
    kinds = {shape.tag for shape in shapes}
    if kinds == {"mask"}:
        mask = np.zeros(size, dtype=bool)
        for shape in shapes:
            _paint(mask, shape)
        return mask_object(name, mask, **extra)
    if "mask" in kinds:
        raise UnusableError("mixed-group", "masks and other shapes in one group", "group shapes of one kind")
    if len(shapes) == 1 and kinds == {"box"} and not number(shapes[0].get("rotation", 0), "rotation"):
        return box_object(name, _sides(shapes[0]), size, imported.changed, **extra)
    return polygon_object(name, [_outline(shape, imported) for shape in shapes], size, imported.changed, **extra)


def _sides(shape: Element) -> tuple[float, float, float, float]:
    left, top, right, bottom = (number(shape.get(side), side) for side in ("xtl", "ytl", "xbr", "ybr"))
    return left, top, right, bottom


def _outline(shape: Element, imported: Imported) -> list[Point]:
    rotation = number(shape.get("rotation", 0), "rotation")
    if shape.tag == "box":
        left, top, right, bottom = _sides(shape)
        if rotation:
            imported.changed["turned boxes as polygons"] += 1
        return turned(corners_of(left, top, right, bottom), ((left + right) / 2, (top + bottom) / 2), rotation)
    if shape.tag == "ellipse":
        imported.changed["ellipses as polygons"] += 1
        x, y, radius_x, radius_y = (number(shape.get(side), side) for side in ("cx", "cy", "rx", "ry"))
        return ellipse(x, y, radius_x, radius_y, rotation)
    if shape.tag != "polygon":
        raise UnusableError("no-area", f"a {shape.tag} has no area", "draw a polygon or a box")
    pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";") if pair]
    if any(len(pair) != 2 for pair in pairs):
        raise UnusableError("bad-shape", "points is no list of x,y;x,y;...", "draw it again")
    return [(number(x), number(y)) for x, y in pairs]


def _paint(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], shape: Element) -> None:
    """Adds a mask: lengths of runs, row after row of the box around it, that begin outside the object."""
    left, top, width, height = (whole(shape.get(side), side) for side in ("left", "top", "width", "height"))
    inside = left >= 0 and top >= 0 and left + width <= mask.shape[1] and top + height <= mask.shape[0]
    if not inside or width < 1 or height < 1:
        raise UnusableError("outside", "the mask reaches out of the image", "paint it again")
    runs = [whole(run, "a run of the mask") for run in (shape.get("rle") or "").split(",") if run.strip()]
    if min(runs, default=-1) < 0 or sum(runs) != width * height:
        message = f"the runs of the mask cover {sum(runs)} pixels, its box {width * height}"
        raise UnusableError("bad-mask", message, "paint it again")
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    mask[top : top + height, left : left + width] |= pixels
