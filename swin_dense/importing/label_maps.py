"""Label maps of other sources: VOC's `SegmentationClass`, or a PNG per image in a folder of masks.

A `labelmap.txt` as CVAT writes it (`name:r,g,b::` in each line) gives the names of the classes, and the colours that
stand for them in label maps in colours; those with other colours are left out, with the reason.

Where 0 and 255 are the only values of all files, and no list names more than the two, 255 is the class of the objects,
as in data sets of one kind of object. Anywhere else 255 is no class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swin_dense.errors import DataError
from swin_dense.images.files import list_files
from swin_dense.images.store import ImageStore
from swin_dense.importing.files import SourceImages, closest, folder_of, split_of, text_lines
from swin_dense.importing.layouts import BESIDE, CLASS_TABLE
from swin_dense.importing.masks import NAMELESS, OF_COLOUR, mask_files
from swin_dense.importing.records import BACKGROUND, Imported, ImportedImage, UnusableError
from swin_dense.importing.voc import BACKGROUND_FIRST, VOID, pngs_by_stem, splits_of
from swin_dense.label_maps.files import read_label_file

LABEL_FOLDERS = ("SegmentationClass", "masks", "labels", "annotations", "mask")
"""Where label maps lie; the first that is there counts."""


def read_label_maps(source: Path) -> Imported:
    """Reads the label map of every image that has one."""
    root, imported = folder_of(source), Imported("label maps")
    images = SourceImages(root)
    masks = mask_files(root)
    folder = next((one for one in LABEL_FOLDERS if any(one in name.split("/")[:-1] for name in masks)), None)
    table = next(iter(sorted(root.rglob(CLASS_TABLE))), None) if folder is None else None
    if folder is None and table is None:
        raise DataError(f"{root}: no folder of label maps in it; call it SegmentationClass or masks")
    by_stem: dict[str, list[str]] = {}
    if folder is not None:
        by_stem = pngs_by_stem(root, folder)
    else:
        masks = [name for name in list_files(root, (".png",)) if name.endswith(BESIDE)]
        for name in masks:
            by_stem.setdefault(Path(name).name.removesuffix(BESIDE), []).append(name)
    listed = next((root / name for name in ("labelmap.txt", "classes.txt") if (root / name).is_file()), None)
    colours: dict[int, int] = {}
    if listed is not None:
        with imported.dropping(listed):
            lines = [line.split(":") for line in text_lines(listed) if not line.startswith("#")]
            imported.classes = [line[0].strip() for line in lines]
            for label, line in enumerate(lines):
                parts = re.fullmatch(r"\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*", ":".join(line[1:2]), re.ASCII)
                if parts is not None:
                    colours.setdefault(int(np.array([int(part) for part in parts.groups()]) @ OF_COLOUR), label)
    elif table is not None:
        imported.classes = _classes_in(table)
    elif folder == "SegmentationClass":
        imported.classes = list(BACKGROUND_FIRST)
    splits, skipped, used, values = splits_of(root), set(masks), set(), np.zeros(VOID + 1, dtype=bool)
    for name in images.names:
        if name in skipped:
            continue
        mask = closest(name, by_stem.get(Path(name).stem, []))
        if mask is None:
            imported.drop("no-label-map", root / name, "no label map, or more than one, belongs to it", "add it")
            continue
        with imported.dropping(root / mask):
            used.add(mask)
            read = partial(labels_of, root / mask, colours)
            labels, path = read(), root / name
            values |= np.bincount(labels.flatten(), minlength=len(values)) > 0
            size, split = (labels.shape[0], labels.shape[1]), splits.get(path.stem) or split_of(name)
            imported.images.append(ImportedImage(path, Path(name).name, size, (), split, read))
    for mask in sorted({one for found in by_stem.values() for one in found} - used):
        imported.drop("missing-image", root / mask, "no image belongs to this label map", "add it")
    if np.flatnonzero(values).tolist() in ([0, VOID], [VOID]) and len(imported.classes) < 3:
        _take_as_objects(imported)
    elif not imported.classes:
        imported.notes.append("the source lists no classes: they are called by the labels in the files")
        imported.classes = [str(label) for label in range(np.flatnonzero(values[:VOID]).max(initial=0) + 1)]
    return imported


def _classes_in(table: Path) -> list[str]:
    """The classes of a table `Pixel Value, Class`, whose numbers are 0, 1, 2, ..."""
    rows = [[word.strip() for word in line.split(",", 1)] for line in text_lines(table)[1:]]
    if [row[0] for row in rows] != [str(number) for number in range(len(rows))] or any(len(row) != 2 for row in rows):
        raise DataError(f"{table}: its rows are not 0, 1, 2, ... with a class each; export it again")
    return [name for _, name in rows]


def _take_as_objects(imported: Imported) -> None:
    """Makes 255 the second class, behind the background."""
    imported.classes = [BACKGROUND, NAMELESS][: 2 - len(imported.classes)] + imported.classes
    imported.void = ()
    imported.images = [replace(one, label_map=partial(_objects_in, one)) for one in imported.images]
    background, name = imported.classes
    imported.notes.append(f"the label maps hold 0 and 255 alone: 0 is the class {background!r}, and 255 {name!r}")


def _objects_in(image: ImportedImage) -> npt.NDArray[np.integer]:
    assert image.label_map is not None
    labels: npt.NDArray[np.integer] = np.equal(image.label_map(), VOID).astype(np.uint8)
    return labels


def labels_of(path: Path, colours: Mapping[int, int]) -> npt.NDArray[np.integer]:
    """(H, W) labels of a label map, of which one in colours is read with their labels."""
    store = ImageStore(path.parent)
    with store.open(path.name, ("PNG",)) as image:
        pixels = np.asarray(image.convert("RGB")) if image.mode in ("RGB", "RGBA") else None
    if pixels is None:
        labels = read_label_file(store, path.name).labels
    else:
        values, places = np.unique(pixels @ OF_COLOUR, return_inverse=True)
        unknown = [value for value in values.tolist() if value not in colours]
        if unknown:
            shown = "{},{},{}".format(*unknown[0].to_bytes(3, "big"))
            message = f"has {len(unknown)} of {len(values)} colors that no list names, for instance {shown}"
            fix = "add a labelmap.txt with a line NAME:R,G,B for each, or export it with an index per pixel"
            raise UnusableError("unknown-color", message, fix)
        labels = np.array([colours[value] for value in values.tolist()])[places].reshape(pixels.shape[:2])
    if labels.max(initial=0) > VOID:
        fix = "number the classes from 0; 255 is no class"
        raise UnusableError("label-format", f"has the label {labels.max()}, beyond 255", fix)
    return labels
