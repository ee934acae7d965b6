"""Class lists: names of the classes, and the colours beside them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from swin_dense.errors import DataError
from swin_dense.images.archive import exists, read_bytes
from swin_dense.label_maps.palettes import Palette, read_palette

CLASS_LISTS = ("objectInfo150.txt", "objectInfo150.csv")
"""Names of ADE20K's list of classes, in the root of the official layout; the first one that is there counts."""

COLOURS = "color150.mat"
"""The official colours, which the developers give out beside the data."""

MAX_BYTES = 2**24
"""Largest class list that is read from a zip file; that of ADE20K has 5000 bytes."""


def read_classes(path: Path) -> tuple[tuple[str, ...], Palette | None]:
    """Names of the classes, and the colours of the file `color150.mat` beside the list, if there is one.

    Raises:
        DataError: A file is missing or unreadable, or the two have another number of classes.
    """
    names = read_class_names(Path(path))
    colours = Path(path).with_name(COLOURS)
    return names, read_palette(colours, len(names)) if exists(colours) else None


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names of the classes 0..K-1: ADE20K's `objectInfo150.txt` or `.csv`, or a text file with one name per line.

    Of the synonyms that ADE20K's list gives between commas, the first counts. Its .csv has semicolons between synonyms
    and words alike, so that names from there stay whole.

    Args:
        path: The file, also in a zip file.

    Raises:
        DataError: It is missing, no text, empty, out of order, or names two classes alike.
    """
    if not exists(path):
        raise DataError(f"{path}: no such class list; put it there, or name a file with one class name per line")
    try:
        lines = read_bytes(path, MAX_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text file ({error}); write one class name per line") from error
    lines = [line for line in lines if line.strip()]
    names = _column_of_names(lines, path) if lines and lines[0].startswith("Idx") else [line.strip() for line in lines]
    if not names or "" in names:
        raise DataError(f"{path}: names no classes, or leaves one without a name")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path}: names two classes {name!r}; give each a name of its own")
    return tuple(names)


def _column_of_names(lines: list[str], path: Path) -> list[str]:
    """The column Name of ADE20K's table, whose column Idx counts 1, 2, 3, ..."""
    delimiter = "\t" if "\t" in lines[0] else ","
    if not {"Idx", "Name"} <= {*lines[0].split(delimiter)}:
        raise DataError(
            f"{path}: has no columns Idx and Name between tabs or commas; use the official {CLASS_LISTS[0]}"
        )
    try:
        rows = list(csv.DictReader(lines, delimiter=delimiter))
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read as a table ({error}); restore the list") from error
    if [(row["Idx"] or "").strip() for row in rows] != [str(number) for number in range(1, len(rows) + 1)]:
        raise DataError(f"{path}: its column Idx does not count 1, 2, 3, ...; restore the list")
    return [(row["Name"] or "").split(",")[0].strip() for row in rows]
