"""Labelme: a JSON file per image, with polygons, rectangles, circles and masks in pixels of the image as shown."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from swin_dense.images.store import MAX_PIXELS, pillows_limit
from swin_dense.importing.files import (
    SourceImages,
    annotation_files,
    folder_of,
    json_document,
    split_of,
    text_lines,
)
from swin_dense.importing.geometry import (
    Point,
    box_object,
    corners_of,
    ellipse,
    mask_object,
    pairs,
    polygon_object,
    stated_size,
)
from swin_dense.importing.records import Imported, ImportedImage, ImportedObject, UnusableError
from swin_dense.records import Size

WITHOUT_AREA = ("line", "linestrip", "point", "points")


def read_labelme(source: Path) -> Imported:
    """Reads every JSON file with `shapes` below a folder, or the one that is named."""
    root, imported = folder_of(source), Imported("labelme")
    images = SourceImages(root)
    for path in annotation_files(source, ".json"):
        with imported.dropping(path):
            document = json_document(path)
            if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
                raise UnusableError("not-labelme", "has no list of shapes", "remove it, or export it with Labelme")
            imported.images.append(_image(path, document, images, imported))
    images.drop_unused(imported, "save it in Labelme without shapes, if there is nothing on it")
    listed = root / "labels.txt"
    if listed.is_file():  # as Labelme takes it with --labels, with two names that are no classes
        with imported.dropping(listed):
            imported.classes = [name for name in text_lines(listed) if name not in ("__ignore__", "_background_")]
    return imported


def _image(path: Path, document: dict[str, Any], images: SourceImages, imported: Imported) -> ImportedImage:
    stated = stated_size(document.get("imageHeight"), document.get("imageWidth"))
    called = document.get("imagePath")
    try:
        name = images.find(called if isinstance(called, str) and called else path.stem, path.parent)
    except UnusableError:
        if not document.get("imageData") or stated is None:
            raise
        imported.changed["images taken out of their JSON file"] += 1
        name = path.relative_to(images.root).with_suffix("").as_posix() + _suffix(called)
        objects = _objects(path, document["shapes"], stated, imported)
        return ImportedImage(
            images.root / name, name, stated, objects, split_of(name), embedded=partial(_embedded, path)
        )
    size = stated or images.size(name)
    objects = _objects(path, document["shapes"], size, imported)
    return ImportedImage(images.root / name, name, size, objects, split_of(name))


def _suffix(called: Any) -> str:
    suffix = Path(called).suffix.lower() if isinstance(called, str) else ""
    return suffix if suffix in (".jpg", ".jpeg", ".png", ".bmp", ".webp") else ".png"


def _embedded(path: Path) -> bytes:
    try:
        return base64.b64decode(json_document(path)["imageData"], validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise UnusableError("unreadable-image", "imageData is not in base64", "put the image beside it") from None


def _objects(path: Path, shapes: Sequence[Any], size: Size, imported: Imported) -> tuple[ImportedObject, ...]:
    """An object for each shape; shapes of one label and one `group_id` are parts of one object."""
    groups: dict[Any, list[tuple[str, dict[str, Any]]]] = {}
    for place, shape in enumerate(shapes):
        with imported.dropping(path, f"shapes[{place}]"):
            if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"].strip():
                raise UnusableError("bad-shape", "is no shape with a label", "label it")
            group = shape.get("group_id")
            key = (place,) if group is None else (shape["label"].strip(), str(group))
            groups.setdefault(key, []).append((f"shapes[{place}]", shape))
    found = []
    for parts in groups.values():
        with imported.dropping(path, ", ".join(item for item, _ in parts)):
            found.append(_object([shape for _, shape in parts], size, imported))
    return tuple(found)


def _object(shapes: Sequence[dict[str, Any]], size: Size, imported: Imported) -> ImportedObject:
    name = shapes[0]["label"].strip()
    kinds = {str(shape.get("shape_type") or "polygon") for shape in shapes}
    if kinds == {"rectangle"} and len(shapes) == 1:
        points = pairs(shapes[0].get("points"))
        x, y = [point[0] for point in points], [point[1] for point in points]
        if len(points) < 2:
            raise UnusableError("few-points", "a rectangle of one point", "draw it again")
        return box_object(name, (min(x), min(y), max(x), max(y)), size, imported.changed)
    if "mask" in kinds:
        if kinds != {"mask"}:
            raise UnusableError("mixed-group", "masks and other shapes in one group", "group shapes of one kind")
        mask = np.zeros(size, dtype=bool)
        for shape in shapes:
            _paint(mask, shape)
        return mask_object(name, mask)
    imported.changed["circles as polygons"] += sum(shape.get("shape_type") == "circle" for shape in shapes)
    return polygon_object(name, [_outline(shape) for shape in shapes], size, imported.changed)


def _outline(shape: dict[str, Any]) -> list[Point]:
    kind, points = str(shape.get("shape_type") or "polygon"), pairs(shape.get("points"))
    if kind == "polygon":
        return points
    if kind in WITHOUT_AREA:
        raise UnusableError("no-area", f"a {kind} has no area", "draw a polygon or a rectangle")
    if kind not in ("rectangle", "circle") or len(points) < 2:
        raise UnusableError("bad-shape", f"a {kind} of {len(points)} points", "draw a polygon or a rectangle")
    (x, y), (other_x, other_y) = points[:2]
    if kind == "rectangle":
        return corners_of(x, y, other_x, other_y)
    radius = float(np.hypot(other_x - x, other_y - y))
    return ellipse(x, y, radius, radius)


def _paint(mask: np.ndarray[Any, Any], shape: dict[str, Any]) -> None:
    """Adds a mask, a PNG in base64 whose upper left pixel lies at the first point."""
    points = pairs(shape.get("points"))
    if not points or not isinstance(shape.get("mask"), str):
        raise UnusableError("bad-shape", "a mask without its pixels", "paint it again")
    try:
        with pillows_limit.lifted(), Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=["PNG"]) as image:
            if image.width * image.height > min(MAX_PIXELS, 4 * mask.size):
                raise UnusableError("bad-mask", "the mask is larger than its image", "paint it again")
            pixels = np.asarray(image.convert("L")) > 0
    except UnusableError:
        raise
    except Exception:  # Pillow raises nearly anything on damaged files
        raise UnusableError("bad-mask", "the mask is no PNG in base64", "paint it again") from None
    left, top = (round(value) for value in points[0])
    if left < 0 or top < 0 or left >= mask.shape[1] or top >= mask.shape[0]:
        raise UnusableError("outside", "the mask lies outside the image", "paint it again")
    pixels = pixels[: mask.shape[0] - top, : mask.shape[1] - left]
    mask[top : top + pixels.shape[0], left : left + pixels.shape[1]] |= pixels
