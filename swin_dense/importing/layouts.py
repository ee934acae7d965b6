"""What format a folder or an annotation file is of, told by a look at a few of its files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from swin_dense.errors import DataError, data_import, option
from swin_dense.files import is_there

FORMATS = {
    "coco": "COCO files",
    "yolo": "YOLO",
    "labelme": "Labelme",
    "voc": "Pascal VOC",
    "cvat": "CVAT",
    "label-studio": "Label Studio",
    "masks": "a folder of masks",
}
"""Formats that are imported, and what they are called."""

LOOKED_AT = 20_000
"""Most files of a folder whose names are looked at."""

OPENED = 40
"""Most files of a kind that are opened."""

HEAD = 2**16
"""Bytes at the beginning of a file that are looked at."""

LABEL_LINE = re.compile(r"\d+(\.0*)?([ \t]+-?\d*\.?\d+(e-?\d+)?){4,}\s*", re.IGNORECASE)


def recognise(source: Path) -> str | None:
    """The format of a folder or file, a key of `FORMATS`; None where it is of none, or cannot be read."""
    try:
        return format_of_file(source) if source.is_file() else _format_of_folder(source)
    except OSError:
        return None


def hint_to_import(root: Path, to: str = "coco") -> str | None:
    """What to do with a folder that training was pointed at, if it is of a format that can be imported.

    `to` is the form that the training reads.
    """
    found = recognise(root) if root.is_dir() else None
    if found is None:
        return None
    how = data_import(root, to)
    return f"{root} looks like {FORMATS[found]}: import it first with `{how}`, then {option('data', 'OUT')}"


def format_of_file(path: Path) -> str | None:
    """The format of one annotation file, by its beginning."""
    suffix = path.suffix.lower()
    if suffix not in (".json", ".xml", ".yaml", ".yml"):
        return None
    with path.open("rb") as file:
        head = file.read(HEAD).decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if suffix == ".xml":
        root = re.search(r"<(annotations?)\b", head)
        return None if root is None else {"annotation": "voc", "annotations": "cvat"}[root[1]]
    if suffix == ".json":
        return _format_of_json(head)
    keys = set(re.findall(r"^(\w+)\s*:", head, re.MULTILINE))
    return "yolo" if "names" in keys and keys & {"train", "val", "test"} else None


def _format_of_json(head: str) -> str | None:
    keys = set(re.findall(r'"(\w+)"\s*:', head))
    if head.startswith("["):
        is_task = "data" in keys and keys & {"annotations", "completions", "predictions"}
        return "label-studio" if is_task or keys & {"original_width", "annotation_id"} else None
    if "shapes" in keys and keys & {"imagePath", "version", "shape_type", "imageData", "flags"}:
        return "labelme"
    of_coco = keys & {"info", "licenses", "images", "annotations", "categories"}
    told = {"images", "annotations"} if len(head) < HEAD else {"images", "annotations", "categories"}
    return "coco" if len(of_coco) > 1 and keys & told else None  # notes.json of Label Studio has info and categories


def _format_of_folder(root: Path) -> str | None:
    names = list(islice(_names(root), LOOKED_AT))
    by_suffix: dict[str, list[Path]] = {}
    for name in names:
        by_suffix.setdefault(Path(name).suffix.lower(), []).append(root / name)
    for suffix in (".yaml", ".yml", ".xml", ".json"):
        found = [format_of_file(path) for path in by_suffix.get(suffix, [])[:OPENED]]
        known = [one for one in found if one is not None]
        if known:
            return max(set(known), key=known.count)
    texts = by_suffix.get(".txt", [])
    if any(looks_like_labels(path) for path in islice((path for path in texts if path.stat().st_size), OPENED)):
        return "yolo"
    folders = {part.lower() for name in names for part in Path(name).parts[:-1]}
    pngs = by_suffix.get(".png", [])
    in_folders = pngs and folders & MASK_FOLDERS and folders & IMAGE_FOLDERS
    has_table = any(path.name == CLASS_TABLE for path in by_suffix.get(".csv", []))
    return "masks" if in_folders or has_table and any(path.name.endswith(BESIDE) for path in pngs) else None


BESIDE, CLASS_TABLE = "_mask.png", "_classes.csv"
"""How label maps end that lie beside their images, and the list of their classes, as Roboflow exports them."""

MASK_FOLDERS = {"masks", "mask", "pedmasks", "segmentationobject", "segmentationclass", "labels", "annotations"}
IMAGE_FOLDERS = {"images", "image", "imgs", "pngimages", "jpegimages"}
"""What folders of masks and of images are called, in small letters."""


def _names(root: Path) -> Iterator[str]:
    """Names of files, those of upper folders first."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), root)


def looks_like_labels(path: Path) -> bool:
    """Whether the first line of a text file is one of YOLO's."""
    with path.open("rb") as file:
        lines = file.read(HEAD).decode("utf-8", "replace").splitlines()
    return bool(lines) and LABEL_LINE.fullmatch(lines[0].strip()) is not None


def required_format(source: Path, named: str | None) -> str:
    """The format that is named, or else recognised."""
    if not is_there(source):
        raise DataError(f"{source}: no such folder or file")
    found = named or recognise(source)
    if found is None:
        raise DataError(
            f"{source}: cannot tell what format it is of; name it with {option('format', '|'.join(FORMATS))}"
        )
    return found
