"""The colours that a data set gives its classes.

SciPy reads more kinds of MATLAB files, but one of some hundred mutated files crashes the interpreter in its `loadmat`.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swin_dense.errors import DataError
from swin_dense.images.archive import read_bytes

Palette = NDArray[np.uint8]
"""(K, 3) RGB."""

MAX_BYTES = 2**20
"""Largest palette file that is read or unpacked; that of ADE20K has 500 bytes."""

MI_UINT8, MI_MATRIX, MI_COMPRESSED = 2, 14, 15
"""Data types of MATLAB's level 5 files (MAT-File Format, table 1-1)."""


def read_palette(path: Path, class_count: int) -> Palette:
    """(K, 3) RGB of ADE20K's `color150.mat`: a MATLAB level 5 file of one uint8 matrix.

    Args:
        path: The file, also in a zip file.
        class_count: Number of classes K.

    Raises:
        DataError: It is no such file, or has another number of colours.
    """
    content = read_bytes(path, MAX_BYTES)
    try:
        kind, element = _element(content[128:])  # behind the header, of which nothing matters here
        if kind == MI_COMPRESSED:
            kind, element = _element(zlib.decompressobj().decompress(element, MAX_BYTES))
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
