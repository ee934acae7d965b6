"""YOLO: Ultralytics' folders with a `data.yaml`, and darknet's with a list of names; boxes and polygons.

A line is `class cx cy w h` or `class x0 y0 x1 y1 x2 y2 ...`, in fractions of the image as it is shown. A sixth value is
a tracker's or a detector's, keypoints follow the box where `data.yaml` states a `kpt_shape`.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from swin_dense.errors import DataError
from swin_dense.images.files import list_files
from swin_dense.importing.files import SPLITS, SourceImages, folder_of, split_of, text_lines
from swin_dense.importing.geometry import box_object, number, polygon_object, whole
from swin_dense.importing.layouts import looks_like_labels
from swin_dense.importing.records import IN_TWO_SPLITS, Imported, ImportedImage, ImportedObject, UnusableError
from swin_dense.records import Size

NAME_LISTS = ("obj.names", "classes.txt", "classes.names", "labels.txt", "predefined_classes.txt", "_darknet.labels")
"""Files of darknet and of tools with a class name per line."""

YAML = (".yaml", ".yml")


class YoloLayout(NamedTuple):
    """Where a source has what; `splits` gives the images of each, None for all that there are."""

    names: list[str]
    splits: dict[str | None, list[str]]
    keypoints: bool


def read_yolo(source: Path) -> Imported:
    """Reads a folder, or the `data.yaml` in it that is meant."""
    root, imported = folder_of(source), Imported("yolo")
    images = SourceImages(root)
    layout = _layout(source, root, images, imported)
    imported.classes = layout.names
    without = 0
    listed = {name for names in layout.splits.values() for name in names}
    used = {_labels_of(root, name).relative_to(root).as_posix() for name in images.names}
    for name in images.names:
        if name not in listed:
            fix = "add it to the YAML file, or to the list of its split"
            imported.drop("in-no-split", root / name, "no split names this image", fix)
    first: dict[str, str | None] = {}  # split of each image that was read
    for split, names in layout.splits.items():
        for name in names:
            if name in first:
                imported.changed[IN_TWO_SPLITS] += first[name] != split
                continue
            first[name] = split
            labels = _labels_of(root, name)
            without += not labels.is_file()
            with imported.dropping(labels):
                lines = text_lines(labels) if labels.is_file() else []
                with imported.dropping(root / name):
                    size = images.size(name)
                    objects = _objects(labels, lines, size, layout, imported)
                    imported.images.append(ImportedImage(root / name, _below_images(name), size, objects, split))
    if without:
        imported.notes.append(f"{without} images have no label file: kept, as images without objects")
    if layout.keypoints:
        imported.notes.append("keypoints are left out, their boxes are kept")
    for name in list_files(root, (".txt",)):
        if name not in used and _is_label(root, name, used):
            imported.drop("missing-image", root / name, "no image belongs to this label file", "add it or remove this")
    return imported


def find_data_yaml(root: Path, with_splits: bool = True) -> Path | None:
    """The file of a folder that lists class names and splits, as Ultralytics wants it, or class names at least."""
    paths = [path for pattern in ("*.y*ml", "*/*.y*ml") for path in root.glob(pattern) if path.suffix in YAML]
    for path in sorted(paths, key=lambda path: (path.parent != root, path.stem != "data", path)):
        content = _yaml(path)
        if "names" in content and (SPLITS.keys() & content.keys() or not with_splits):
            return path
    return None


def find_names(root: Path) -> Path | None:
    """A list of class names, in the folder itself or one below it."""
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    found = [folder / name for folder in folders for name in NAME_LISTS if (folder / name).is_file()]
    found += [path for folder in folders for path in sorted(folder.glob("*.names"))]
    return found[0] if found else None


def _layout(source: Path, root: Path, images: SourceImages, imported: Imported) -> YoloLayout:
    path = source if source.suffix in YAML and source.is_file() else find_data_yaml(root) or find_names(root)
    path = path or find_data_yaml(root, with_splits=False)
    if path is None:
        raise DataError(
            f"{root}: YOLO labels without class names; add a data.yaml with names, train and val, or a classes.txt "
            "with a class name per line"
        )
    content = _yaml(path) if path.suffix in YAML else {}
    has_keypoints = "kpt_shape" in content
    names = _class_names(path, content.get("names")) if path.suffix in YAML else _unique(path, _lines(path))
    if SPLITS.keys() & content.keys():
        return YoloLayout(names, _splits_of(content, path, images, imported), has_keypoints)
    lists = {split: root / f"{name}.txt" for name, split in SPLITS.items() if (root / f"{name}.txt").is_file()}
    splits: dict[str | None, list[str]] = {split: _listed(one, images, imported) for split, one in lists.items()}
    if not lists:
        for name in images.names:
            splits.setdefault(split_of(name), []).append(name)
    return YoloLayout(names, splits, has_keypoints)


def _splits_of(
    content: dict[str, Any], path: Path, images: SourceImages, imported: Imported
) -> dict[str | None, list[str]]:
    """The images of each split that a YAML file names; exports of Roboflow name test images that are not there."""
    places: dict[str, list[str]] = {}  # what is read already, such as the list of val that train has, too
    splits: dict[str | None, list[str]] = {}
    for theirs, ours in SPLITS.items():
        if not content.get(theirs):
            continue
        try:
            splits[ours] = _images_of(content[theirs], content.get("path"), path.parent, images, imported, places)
        except DataError as error:
            if ours != "test" or not splits:
                raise
            message, _, fix = str(error).removeprefix(f"{path.parent}: ").partition("; ")
            imported.drop("no-test-images", path, message, fix)
    return splits


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(
            path.read_text("utf-8-sig"), Loader=yaml.BaseLoader
        )  # lists, mappings, and texts as written
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, OSError, ValueError) as error:
        first = " ".join(str(error).split())
        fix = "write paths with / in them" if "escape" in first else "correct it"
        raise DataError(f"{path}: cannot be read as YAML ({first}); {fix}") from None
    return content if isinstance(content, dict) else {}


def _class_names(path: Path, names: Any) -> list[str]:
    """Names of a list, or of a mapping of every number from 0 on."""
    if isinstance(names, dict):
        if not all(key.isdecimal() and len(key) < 8 for key in names):
            raise DataError(f"{path}: names has keys that are no class ids; number the classes from 0")
        by_id = {int(key): name for key, name in names.items()}
        if sorted(by_id) != list(range(len(by_id))):
            raise DataError(f"{path}: names gives the class ids {sorted(by_id)[:8]}; number the classes 0, 1, 2, ...")
        names = [by_id[key] for key in sorted(by_id)]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: names is no list of class names; write names: [cat, dog]")
    return _unique(path, [name.strip() for name in names])


def _unique(path: Path, names: list[str]) -> list[str]:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None or "" in names or not names:
        raise DataError(f"{path}: the class name {repeated or ''!r} is empty or given twice; give each its own name")
    return names


def _lines(path: Path) -> list[str]:
    try:
        return text_lines(path)
    except UnusableError as error:
        raise DataError(f"{path}: {error.fault}; {error.fix}") from None


def _images_of(
    value: Any, base: Any, folder: Path, images: SourceImages, imported: Imported, places: dict[str, list[str]]
) -> list[str]:
    """Images of one split: a folder, a text file with a path per line, or several of them."""
    found: list[str] = []
    for one in value if isinstance(value, list) else [value]:
        place = (
            _place(one, base if isinstance(base, str) else "", folder, images.root) if isinstance(one, str) else None
        )
        if place is None:
            raise DataError(
                f"{folder}: its YAML file names {ascii(one)[:80]}, which is not in {images.root}; correct the path, "
                "relative to the YAML file, or import the folder that holds it"
            )
        if place not in places and (images.root / place).is_file():
            places[place] = _listed(images.root / place, images, imported)
        elif place not in places:
            places[place] = [name for name in images.names if place == "." or name.startswith(f"{place}/")]
        found += places[place]
    return list(dict.fromkeys(found))


def _place(name: str, base: str, folder: Path, root: Path) -> str | None:
    """A folder or file below the root that a YAML file means, however it was written on another computer."""
    near = folder.relative_to(root).as_posix()
    plain = name.replace("\\", "/")
    ends = [part for part in plain.split("/") if part not in ("", ".", "..")]
    guesses = [posixpath.join(near, base.replace("\\", "/"), plain), posixpath.join(near, plain), plain]
    guesses += ["/".join(ends[start:]) for start in range(len(ends))]  # ../train/images of Roboflow, absolute paths
    for guess in map(posixpath.normpath, guesses):
        if not guess.startswith(("/", "..")) and os.path.exists(root / guess):  # not where it is too long
            return guess
    return None


def _listed(path: Path, images: SourceImages, imported: Imported) -> list[str]:
    """The images that a text file names."""
    found = []
    for line in _lines(path):
        with imported.dropping(path, line):
            found.append(images.find(line, path.parent))
    return found


def _labels_of(root: Path, image: str) -> Path:
    """The label file of an image: in `labels` where it lies in `images`, else beside it."""
    stem = image.rpartition(".")[0]
    head, found, tail = f"/{stem}".rpartition("/images/")
    elsewhere = root / f"{head}/labels/{tail}.txt".lstrip("/")
    beside = root / f"{stem}.txt"
    return elsewhere if found and (elsewhere.is_file() or not beside.is_file()) else beside


def _below_images(image: str) -> str:
    """What an image is called in its split: without the folders of images and splits above it."""
    parts = image.split("/")
    return "/".join([part for part in parts[:-1] if part.lower() not in {"images", *SPLITS}] + parts[-1:])


def _is_label(root: Path, name: str, used: set[str]) -> bool:
    """Whether a text file without an image lies where labels do, and is no list of images or classes."""
    if name.rpartition("/")[0] not in {one.rpartition("/")[0] for one in used} or Path(name).name in NAME_LISTS:
        return False
    return "/" in name or looks_like_labels(root / name)


def _objects(
    path: Path, lines: Sequence[str], size: Size, layout: YoloLayout, imported: Imported
) -> tuple[ImportedObject, ...]:
    found = []
    for place, line in enumerate(lines, 1):
        with imported.dropping(path, f"line {place}"):
            found.append(_object(line.split(), size, layout, imported))
    return tuple(found)


def _object(words: list[str], size: Size, layout: YoloLayout, imported: Imported) -> ImportedObject:
    label = whole(words[0], "the class id")
    if not 0 <= label < len(layout.names):
        count = len(layout.names)
        raise UnusableError(
            "unknown-class", f"class id {label}, but there are {count} names", "add its name, or correct it"
        )
    values = [number(word) for word in words[1:]]
    if len(values) < 4:
        raise UnusableError("bad-line", f"{len(values)} values after the class", "write cx cy w h, or a polygon")
    if max(map(abs, values[:4])) > 3:
        fix = "divide x by the width and y by the height of the image"
        raise UnusableError("not-fractions", f"{max(values[:4]):g} is no fraction of the image", fix)
    height, width = size
    name = layout.names[label]
    if len(values) > 5 and not layout.keypoints:
        values = values[: len(values) // 2 * 2]  # an odd one is a confidence or the number of a track
        points = [(x * width, y * height) for x, y in zip(values[::2], values[1::2], strict=True)]
        return polygon_object(name, [points], size, imported.changed)
    x, y, w, h = values[0] * width, values[1] * height, values[2] * width, values[3] * height
    if w < 0 or h < 0:
        raise UnusableError("negative-box", f"a box of {values[2]:g} x {values[3]:g}", "correct it")
    return box_object(name, (x - w / 2, y - h / 2, x + w / 2, y + h / 2), size, imported.changed)
