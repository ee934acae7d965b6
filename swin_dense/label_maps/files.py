"""Label maps and class lists as files: what a label PNG holds, and which class each of its labels stands for.

A stored label becomes a class in one place, `classes_of`: stored label + `label_shift`. In ADE20K's files the classes
are 1..150 and 0 means "other", so that a shift of -1 makes them 0..149 and leaves 0 without a class.
"""

from __future__ import annotations

import csv
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from swin_dense.errors import DataError

LabelMap = NDArray[np.int32]
"""(H, W)."""

CLASS_LISTS = ("objectInfo150.txt", "objectInfo150.csv")
"""Names of ADE20K's list of classes, in the root of the official layout; the first one that is there counts."""

_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_STRETCHED = ("L;2", "L;4")  # Pillow stretches the labels in these to 0..255


def read_label_map(path: Path) -> LabelMap:
    """Reads the labels as they are stored in a PNG file.

    Args:
        path: The file.

    Returns:
        (H, W) stored labels.

    Raises:
        DataError: If the file is missing or damaged, or is no label PNG.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise DataError(f"{path}: not a file; put the label PNG there")
        with Image.open(path, formats=("PNG",)) as image:
            return label_map_of(image, path)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such label PNG; restore it, or remove its image") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise DataError(f"{path}: cannot be read as a PNG ({error}); restore the file") from error


def label_map_of(image: ImageFile.ImageFile, path: Path) -> LabelMap:
    """Takes the labels out of an opened PNG: gray values, or the indices of a palette image as PASCAL VOC stores them.

    Args:
        image: As `PIL.Image.open` gives it, not decoded yet.
        path: Its file, for messages.

    Returns:
        (H, W) stored labels.

    Raises:
        DataError: If its pixels are colours and not labels, or gray of 2 or 4 bits.
    """
    if image.mode not in _MODES:
        raise DataError(
            f"{path}: its pixels are colours ({image.mode}), not labels; store one label per pixel in a gray PNG"
        )
    if any(args in _STRETCHED for *_, args in image.tile):
        raise DataError(f"{path}: has fewer than 8 bits per pixel; store the labels with 8 or 16 bits")
    return np.asarray(image).astype(np.int32)


def label_image(labels: NDArray[np.integer]) -> Image.Image:
    """Makes the image of a label PNG.

    Args:
        labels: (H, W) labels as they are to be stored, 0..65535.

    Returns:
        A gray image of 8 bits per pixel, or of 16 where a label needs them.

    Raises:
        ValueError: If this is no label map, or a label does not fit into 16 bits.
    """
    if labels.ndim != 2 or not labels.size or labels.min() < 0 or labels.max() > 65535:
        raise ValueError(f"labels to store are an (H, W) map of 0..65535, not {labels.shape} {labels.dtype}")
    return Image.fromarray(labels.astype(np.uint8 if labels.max() < 256 else np.uint16))


def classes_of(stored: LabelMap, path: Path, *, label_shift: int, ignore_index: int) -> LabelMap:
    """Turns stored labels into classes, contiguous from 0.

    Args:
        stored: (H, W) labels as read.
        path: Their file, for messages.
        label_shift: What is added to a stored label, -1 for ADE20K; a label that falls below 0 has no class.
        ignore_index: Marks pixels without a class, in the result as in the file.

    Returns:
        (H, W) classes 0..K-1, and `ignore_index`.

    Raises:
        DataError: If the class of a label is `ignore_index`.
    """
    classes: LabelMap = stored + np.int32(label_shift)
    unlabelled = (stored == ignore_index) | (classes < 0)
    if (~unlabelled & (classes == ignore_index)).any():
        raise DataError(
            f"{path}: label {ignore_index - label_shift} is class {ignore_index}, which is the ignore_index;"
            " choose an ignore_index beyond the classes, such as 65535"
        )
    classes[unlabelled] = ignore_index
    return classes


def read_class_names(path: Path) -> tuple[str, ...]:
    """Reads a class list: ADE20K's `objectInfo150.txt` or `.csv`, or a text file with one name per line.

    Args:
        path: The file.

    Returns:
        The name of every class 0..K-1.

    Raises:
        DataError: As `class_names_of` does, or if the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return class_names_of(content, path)


def class_names_of(content: bytes, path: Path) -> tuple[str, ...]:
    """Takes the names out of a class list.

    Args:
        content: Of the file.
        path: The file, for messages.

    Returns:
        The name of every class 0..K-1; of the synonyms that ADE20K's list gives between commas, the first. Its .csv has
        semicolons between synonyms and words alike, so that names from there stay whole.

    Raises:
        DataError: If it is no text, empty, out of order, or names two classes alike.
    """
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text file ({error}); write one class name per line") from error
    lines = [line for line in lines if line.strip()]
    names = [line.strip() for line in lines]
    if lines and lines[0].startswith("Idx"):
        delimiter = "\t" if "\t" in lines[0] else ","
        rows = list(csv.DictReader(lines, delimiter=delimiter))
        if not {"Idx", "Name"} <= {*lines[0].split(delimiter)}:
            raise DataError(
                f"{path}: has no columns Idx and Name between tabs or commas; use the official {CLASS_LISTS[0]}"
            )
        if [(row["Idx"] or "").strip() for row in rows] != [str(number) for number in range(1, len(rows) + 1)]:
            raise DataError(f"{path}: its column Idx does not count 1, 2, 3, ...; restore the list")
        names = [(row["Name"] or "").split(",")[0].strip() for row in rows]
    if not names or "" in names:
        raise DataError(f"{path}: names no classes, or leaves one without a name")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: names two classes {twice[0]!r}; give each a name of its own")
    return tuple(names)
