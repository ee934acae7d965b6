"""Class lists: names of the classes, and the colours beside them."""

from __future__ import annotations

import csv
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swin_dense.errors import DataError
from swin_dense.images.files import exists, read_bytes

Palette = NDArray[np.uint8]
"""(K, 3) RGB."""

CLASS_LISTS = ("objectInfo150.txt", "objectInfo150.csv")
"""Names of ADE20K's list of classes, in the root of the official layout; the first one that is there counts."""

COLOURS = "color150.mat"
"""The official colours, which the developers give out beside the data."""

MAX_BYTES = 2**24
"""Largest class list that is read from a zip file; that of ADE20K has 5000 bytes."""

MAX_COLOUR_BYTES = 2**20
"""Largest file of colours that is read or unpacked; that of ADE20K has 500 bytes."""

MI_UINT8, MI_MATRIX, MI_COMPRESSED = 2, 14, 15
"""Data types of MATLAB's level 5 files (MAT-File Format, table 1-1)."""


def read_classes(path: Path) -> tuple[tuple[str, ...], Palette | None]:
    """Names of the classes, and the colours of the file `color150.mat` beside the list, if there is one."""
    names = read_class_names(Path(path))
    colours = Path(path).with_name(COLOURS)
    return names, read_palette(colours, len(names)) if exists(colours) else None


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names of the classes 0..K-1: ADE20K's `objectInfo150.txt` or `.csv`, or a text file with one name per line.

    Of the synonyms that ADE20K's list gives between commas, the first counts. Its .csv has semicolons between synonyms
    and words alike, so that names from there stay whole.
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


def read_palette(path: Path, class_count: int) -> Palette:
    """(K, 3) RGB of ADE20K's `color150.mat`, a MATLAB level 5 file of one uint8 matrix.

    SciPy reads more kinds, but one of some hundred mutated files crashes the interpreter in its `loadmat`.
    """
    content = read_bytes(path, MAX_COLOUR_BYTES)
    try:
        kind, element = _element(content[128:])  # behind the header, of which nothing matters here
        if kind == MI_COMPRESSED:
            kind, element = _element(zlib.decompressobj().decompress(element, MAX_COLOUR_BYTES))
        parts: list[tuple[int, bytes]] = []
        while kind == MI_MATRIX and element and len(parts) < 4:  # flags, dimensions, name, values
            parts.append(_element(element))
            element = element[_stored_bytes(element) :]
        (_, dimensions), (value_kind, values) = parts[1], parts[3]
        rows, columns = struct.unpack("<2i", dimensions)
    except (struct.error, zlib.error, IndexError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a MATLAB level 5 file ({error}); remove or restore it") from error
    if value_kind != MI_UINT8 or columns != 3 or rows != class_count or len(values) != 3 * class_count:
        raise DataError(
            f"{path}: is no uint8 matrix of {class_count} x 3 colours; remove it or put the right one there"
        )
    columns_first = np.frombuffer(values, dtype=np.uint8).reshape(3, class_count)
    return np.ascontiguousarray(columns_first.T)


def _element(content: bytes) -> tuple[int, bytes]:
    """Type and data of the first element."""
    kind, size = struct.unpack_from("<2I", content)
    if kind >> 16:  # small format: type and size in two bytes each, then at most four bytes of data
        return kind & 0xFFFF, content[4 : 4 + (kind >> 16)]
    return kind, content[8 : 8 + size]


def _stored_bytes(content: bytes) -> int:
    """Length of the first element in the file, with its tag and what fills it up to eight bytes."""
    kind, size = struct.unpack_from("<2I", content)
    return 8 if kind >> 16 else 8 + -(-size // 8) * 8
