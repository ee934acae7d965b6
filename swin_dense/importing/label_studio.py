"""Label Studio: JSON or JSON-MIN; boxes, ellipses and polygons in percent of the image as shown, and brush masks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import numpy.typing as npt

from swin_dense.importing.files import SourceImages, annotation_files, folder_of, json_document
from swin_dense.importing.geometry import (
    Point,
    box_object,
    corners_of,
    ellipse,
    mask_object,
    number,
    pairs,
    polygon_object,
    stated_size,
    turned,
)
from swin_dense.importing.layouts import format_of_file
from swin_dense.importing.records import Imported, ImportedImage, ImportedObject, UnusableError
from swin_dense.records import Size

UPLOAD = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""

LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "brushlabels")
"""The shapes that are imported, under the key that holds their class."""


def read_label_studio(source: Path) -> Imported:
    """Reads every JSON file of tasks below a folder, or the one that is named."""
    root, imported = folder_of(source), Imported("label-studio")
    images = SourceImages(root)
    for path in annotation_files(source, ".json"):
        if not source.is_file() and format_of_file(path) != "label-studio":
            continue
        with imported.dropping(path):
            tasks = json_document(path)
            if not isinstance(tasks, list):
                raise UnusableError("not-label-studio", "is no list of tasks", "export it as JSON or JSON-MIN")
            for place, task in enumerate(tasks):
                with imported.dropping(path, f"task {place + 1}"):
                    if not isinstance(task, dict):
                        raise UnusableError("bad-task", "is no object", "export it again")
                    imported.images.append(_image(path, f"task {place + 1}", task, images, imported))
    images.drop_unused(imported, "export its task, too")
    return imported


def _image(path: Path, item: str, task: dict[str, Any], images: SourceImages, imported: Imported) -> ImportedImage:
    data = task.get("data") if isinstance(task.get("data"), dict) else task
    assert isinstance(data, dict)
    addresses = [value for value in data.values() if isinstance(value, str) and _is_image(value)]
    if not addresses:
        raise UnusableError("missing-image", "names no image", "export it with its image")
    name = _find(addresses[0], path.parent, images)
    results = list(_results(path, item, task, imported))
    stated = (stated_size(one.get("original_height"), one.get("original_width")) for one in results)
    size = next(filter(None, stated), None) or images.size(name)
    objects = []
    for place, one in enumerate(results):
        with imported.dropping(path, f"{item}, shape {place + 1}"):
            objects.append(_object(one, size, imported))
    return ImportedImage(images.root / name, name.removeprefix("images/"), size, tuple(objects))


def _is_image(address: str) -> bool:
    return bool(re.search(r"\.(jpe?g|png|webp|bmp|tiff?|gif|ppm|jp2)($|[?&#])", address, re.IGNORECASE))


def _find(address: str, folder: Path, images: SourceImages) -> str:
    """The image at an address, such as `/data/local-files/?d=mine/a.jpg`, with or without the mark of an upload."""
    parts = urlsplit(address)
    place = parse_qs(parts.query).get("d", [unquote(parts.path)])[0].lstrip("/")
    try:
        return images.find(place, folder)
    except UnusableError:
        last = place.rpartition("/")[2]
        if not UPLOAD.match(last):
            raise
        return images.find(UPLOAD.sub("", last), folder)


def _results(path: Path, item: str, task: dict[str, Any], imported: Imported) -> Iterator[dict[str, Any]]:
    """The shapes of a task as records with `type` and `value`; of several annotations, the first not cancelled."""
    if not isinstance(task.get("data"), dict):  # JSON-MIN: every value that is a list holds shapes
        for value in task.values():
            for one in value if isinstance(value, list) else []:
                if isinstance(one, dict) and (kinds := [key for key in one if key.endswith("labels")]):
                    yield {**one, "type": kinds[0], "value": one}
        return
    whole_list = task.get("annotations", task.get("completions")) or []
    if not isinstance(whole_list, list) or not all(isinstance(one, dict) for one in whole_list):
        raise UnusableError("bad-task", "annotations is no list of objects", "export it again")
    kept = [one for one in whole_list if not one.get("was_cancelled")]
    if not kept:
        raise UnusableError("not-annotated", "was not annotated, or skipped", "annotate it, or remove the task")
    for _ in kept[1:]:
        imported.drop("second-annotation", path, f"{item}: another annotation of the same image", "merge them")
    results = kept[0].get("result")
    for place, one in enumerate(results if isinstance(results, list) else []):
        if isinstance(one, dict) and isinstance(one.get("value"), dict):
            if str(one.get("type", "")).endswith("labels"):
                yield one
            else:
                kind = ascii(one.get("type"))[:40]
                imported.drop("no-shape", path, f"{item}: result {place + 1} is of type {kind}", "label a shape")


def _object(one: dict[str, Any], size: Size, imported: Imported) -> ImportedObject:
    value, kind = one["value"], str(one["type"]).lower()
    names = value.get(one["type"])
    if kind not in LABELS:
        raise UnusableError("no-area", f"{kind} have no area", "draw a polygon, box, ellipse or brush")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str) or not names[0].strip():
        raise UnusableError("no-class", f"has the labels {ascii(names)[:40]}, not one", "give it one label")
    name, (height, width) = names[0].strip(), size
    if kind == "brushlabels":
        return mask_object(name, brush_mask(value.get("rle"), size))
    rotation = number(value.get("rotation", 0), "rotation")
    if kind == "polygonlabels":
        outline = [(x * width / 100, y * height / 100) for x, y in pairs(value.get("points"))]
        return polygon_object(name, [outline], size, imported.changed)
    x, y = number(value.get("x"), "x") * width / 100, number(value.get("y"), "y") * height / 100
    if kind == "ellipselabels":
        radius_x, radius_y = (number(value.get(key), key) / 100 for key in ("radiusX", "radiusY"))
        imported.changed["ellipses as polygons"] += 1
        outline = ellipse(x, y, radius_x * width, radius_y * height, rotation)
        return polygon_object(name, [outline], size, imported.changed)
    right = x + number(value.get("width"), "width") * width / 100
    bottom = y + number(value.get("height"), "height") * height / 100
    if not rotation:
        return box_object(name, (x, y, right, bottom), size, imported.changed)
    imported.changed["turned boxes as polygons"] += 1
    corners: list[Point] = turned(corners_of(x, y, right, bottom), (x, y), rotation)  # about the upper left corner
    return polygon_object(name, [corners], size, imported.changed)


def brush_mask(packed: Any, size: Size) -> npt.NDArray[np.uint8]:
    """(H, W) opacity of a brush stroke, packed as by the library rle-pack: 8 bits for each of R, G, B and A.

    A header of 32 bits holds the number of values, 5 bits their width less one, and four times 4 bits the widths of run
    lengths less one. Then come runs: a bit that says whether one value repeats, 2 bits for the width of the run's
    length, that length less one, and the value or values.
    """
    if not isinstance(packed, list) or not all(type(byte) is int and 0 <= byte < 256 for byte in packed):
        raise UnusableError("bad-mask", "rle is no list of bytes", "paint it again")
    bits = np.unpackbits(np.array(packed, dtype=np.uint8))
    place = 0

    def read(width: int) -> int:
        nonlocal place
        if place + width > len(bits):
            raise UnusableError("bad-mask", "the packed mask breaks off", "paint it again")
        found = int("".join(map(str, bits[place : place + width].tolist())), 2)
        place += width
        return found

    count, width = read(32), read(5) + 1
    if count != 4 * size[0] * size[1] or width != 8:
        message = f"the packed mask has {count} values, its image {size[0] * size[1]} pixels"
        raise UnusableError("bad-mask", message, "paint it again")
    widths = [read(4) + 1 for _ in range(4)]
    values, done = np.zeros(count, dtype=np.uint8), 0
    while done < count:
        repeats = read(1)
        length = read(widths[read(2)]) + 1
        if done + length > count:
            raise UnusableError("bad-mask", "the packed mask has more values than its image", "paint it again")
        if repeats:
            values[done : done + length] = read(width)
        else:
            values[done : done + length] = [read(width) for _ in range(length)]
        done += length
    return values.reshape(*size, 4)[..., 3]
