"""Pascal VOC: an XML file per image; instance masks in `SegmentationObject`, label maps in `SegmentationClass`.

Pixels are counted from 1 and both corners belong to the box, as in VOC's development kit. Many tools count from 0: a
folder in which a coordinate is 0, or no whole number, is taken to be of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from swin_dense.images.files import list_files
from swin_dense.images.store import ImageError, ImageStore
from swin_dense.importing.files import (
    SourceImages,
    annotation_files,
    by_stem,
    closest,
    folder_of,
    split_of,
    text_lines,
    text_of,
    xml_root,
)
from swin_dense.importing.geometry import (
    Pixels,
    box_object,
    mask_object,
    number,
    polygon_object,
    stated_size,
)
from swin_dense.importing.records import Imported, ImportedImage, ImportedObject, UnusableError
from swin_dense.label_maps.files import read_label_file
from swin_dense.records import Size

CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor"
).split()
"""The classes of PASCAL VOC 2007 to 2012, in the order of the development kit."""

BACKGROUND_FIRST = ("background", *CLASSES)
"""The labels 0 to 20 of `SegmentationClass`."""

VOID = 255
"""The label of a pixel without a class."""
FLAGS = ("difficult", "truncated", "occluded")
LEAST_OVERLAP = 0.5
"""Intersection over union of an object's box with the box of its mask."""


class _Read(NamedTuple):
    path: Path
    image: str
    size: Size
    objects: list[Element]


def read_voc(source: Path) -> Imported:
    """Reads every XML file with the root `annotation` below a folder, or the one that is named."""
    root, imported = folder_of(source), Imported("voc")
    images, read = SourceImages(root, without=("SegmentationObject", "SegmentationClass")), []
    for path in annotation_files(source, ".xml"):
        with imported.dropping(path):
            document = xml_root(path)
            if document.tag != "annotation":
                raise UnusableError("not-voc", f"its root is <{document.tag}>", "remove it, or export it as Pascal VOC")
            read.append(_header(path, document, images))
    images.drop_unused(imported, "add an XML file without objects, if there is nothing on it")
    first = _first_pixel(read)
    if read:
        imported.notes.append(f"pixels are counted from {first}, as the coordinates show")
    splits = splits_of(root)
    masks = pngs_by_stem(root, "SegmentationObject")
    flags = dict.fromkeys(FLAGS, 0)
    for one in read:
        with imported.dropping(one.path):
            mask = closest(one.image, masks.get(one.path.stem, []))
            objects = []
            for place, element in enumerate(one.objects):
                with imported.dropping(one.path, f"object {place + 1}"):
                    objects.append(_object(element, one.size, first, imported))
            for flag in FLAGS:
                flags[flag] += sum(bool(item.extra.get(flag)) for item in objects)
            if mask is not None:
                objects = _with_masks(objects, root / mask, one, imported)
            path = images.root / one.image
            split = splits.get(path.stem) if splits else split_of(one.image)
            imported.images.append(ImportedImage(path, path.name, one.size, tuple(objects), split))
    imported.notes += [
        f"{count} objects are {flag}: kept, with the key {flag!r}" for flag, count in flags.items() if count
    ]
    names = {item.class_name for image in imported.images for item in image.objects}
    if names <= set(CLASSES):
        imported.classes = list(CLASSES)
    return imported


def _header(path: Path, document: Element, images: SourceImages) -> _Read:
    name = images.find(text_of(document, "filename") or path.stem, path.parent)
    stated = document.find("size")
    size = None if stated is None else stated_size(text_of(stated, "height"), text_of(stated, "width"))
    return _Read(path, name, size or images.size(name), document.findall("object"))


def _first_pixel(read: list[_Read]) -> int:
    """1, or 0 where a coordinate shows that pixels are counted from there."""
    texts = (
        text_of(box, side)
        for one in read
        for item in one.objects
        for box in item.findall("bndbox")
        for side in ("xmin", "ymin", "xmax", "ymax")
    )
    return 0 if any(text == "0" or "." in text.rstrip("0").rstrip(".") or text == "0.0" for text in texts) else 1


def _object(element: Element, size: Size, first: int, imported: Imported) -> ImportedObject:
    name = text_of(element, "name")
    if not name:
        raise UnusableError("no-class", "has no name", "name its class")
    extra = {flag: 1 for flag in FLAGS if text_of(element, flag) == "1"}
    outline = element.find("polygon")
    if outline is not None and len(outline) >= 6:  # as Roboflow and Supervision write it: x1, y1, x2, y2, ...
        values = [
            number(text_of(outline, f"{axis}{place}")) - first
            for place in range(1, len(outline) // 2 + 1)
            for axis in "xy"
        ]
        return polygon_object(
            name, [list(zip(values[::2], values[1::2], strict=True))], size, imported.changed, **extra
        )
    box = element.find("bndbox")
    if box is None:
        raise UnusableError("no-box", "has no bndbox", "draw its box")
    left, top, right, bottom = (number(text_of(box, side), side) for side in ("xmin", "ymin", "xmax", "ymax"))
    if right < left or bottom < top:
        raise UnusableError("negative-box", f"box from ({left:g}, {top:g}) to ({right:g}, {bottom:g})", "correct it")
    return box_object(name, (left - first, top - first, right, bottom), size, imported.changed, **extra)


def _with_masks(objects: list[ImportedObject], path: Path, one: _Read, imported: Imported) -> list[ImportedObject]:
    """The objects with the masks whose boxes they have; those that have none stay boxes."""
    try:
        labels: Pixels = read_label_file(ImageStore(path.parent), path.name).labels
    except ImageError as error:
        raise UnusableError(error.kind, f"{path}: {error.fault}", error.fix) from None
    if labels.shape != one.size:
        message = f"{path} is {labels.shape[1]} x {labels.shape[0]}, its image {one.size[1]} x {one.size[0]}"
        raise UnusableError("mask-size", message, "export it again")
    masks = {int(value): mask_object("", labels == value) for value in np.unique(labels) if value not in (0, VOID)}
    found = []
    for item in objects:
        best = max(masks, key=lambda value: _overlap(item.box, masks[value].box), default=None)
        if best is not None and _overlap(item.box, masks[best].box) >= LEAST_OVERLAP:
            mask = masks.pop(best)
            item = ImportedObject(item.class_name, mask.box, mask.area, mask.outline, extra=item.extra)
        found.append(item)
    for value in masks:
        imported.drop("no-object", path, f"no box in {one.path.name} fits the mask {value}", "add the object")
    return found


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two boxes of x, y, width and height."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(width, 0.0) * max(height, 0.0)
    return both / (one[2] * one[3] + other[2] * other[3] - both)


def pngs_by_stem(root: Path, folder: str) -> dict[str, list[str]]:
    """The PNGs of every folder of this name, by their names without suffix."""
    return by_stem(name for name in list_files(root, (".png",)) if folder in name.split("/")[:-1])


def splits_of(root: Path) -> dict[str, str]:
    """The split of each image that `ImageSets/Main` (or `Segmentation`) lists in train.txt and val.txt."""
    found: dict[str, str] = {}
    for split in ("test", "val", "train"):
        for path in sorted(root.rglob(f"ImageSets/*/{split}.txt")):
            found |= {line.split()[0]: split for line in _lines(path)}
    return found


def _lines(path: Path) -> list[str]:
    try:
        return text_lines(path)
    except UnusableError:
        return []
