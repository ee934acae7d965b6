"""Label maps as files: the labels that a PNG stores, and how they are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from swin_dense.errors import DataError
from swin_dense.images.store import ImageError, ImageStore

MAX_LABEL = 65535
"""Largest label that a PNG can store."""

LabelMap = NDArray[np.integer]
"""(H, W) stored labels, 0..MAX_LABEL, in the type in which the file has them: a byte for each pixel, or two."""

_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_STRETCHED = ("L;2", "L;4")  # Pillow stretches the labels in these to 0..255
_PIXELS_AT_ONCE = 2**20


@dataclass(frozen=True)
class LabelFile:
    """What a label PNG stores.

    PASCAL VOC stores its labels as the indices of a palette image; but those of a picture that some program reduced to
    256 colours mean nothing.
    """

    labels: LabelMap
    has_palette: bool


def read_label_file(store: ImageStore, file_name: str) -> LabelFile:
    """Reads one label PNG: gray values, or the indices of a palette image; anything else raises an ImageError."""
    path = store.root / file_name
    with store.open(file_name, ("PNG",)) as image:
        if image.mode not in _MODES:
            fault = f"its pixels are colours ({image.mode}), not labels"
            raise ImageError(path, "label-format", fault, "store one label per pixel in a gray PNG")
        if any(args in _STRETCHED for *_, args in image.tile):
            fix = "store the labels with 8 or 16 bits"
            raise ImageError(path, "label-format", "has fewer than 8 bits per pixel", fix)
        return LabelFile(_pixels(image), image.mode == "P")


def _pixels(image: ImageFile.ImageFile) -> LabelMap:
    """Copies the pixels a band of rows at a time: `np.asarray(image)` would need three times their size."""
    image.load()
    labels = np.empty((image.height, image.width), np.uint8 if image.mode in ("1", "L", "P") else np.uint16)
    rows = max(1, _PIXELS_AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        labels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return labels


def label_image(labels: NDArray[np.integer]) -> Image.Image:
    """A gray image of (H, W) labels 0..65535: 8 bits per pixel, or 16 where a label needs them."""
    assert labels.ndim == 2 and labels.size, "a label map has a height and a width"
    if labels.min() < 0 or labels.max() > MAX_LABEL:
        raise DataError(
            f"a label PNG holds 0..{MAX_LABEL}, not {labels.min()}..{labels.max()}; correct label_shift, which is "
            "subtracted from the classes"
        )
    return Image.fromarray(labels.astype(np.uint8 if labels.max() < 256 else np.uint16))


def in_chunks(pixels: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    """A contiguous array as flat views of about a million pixels, which bound the temporaries of counting."""
    flat = pixels.reshape(-1)
    return (flat[start : start + _PIXELS_AT_ONCE] for start in range(0, len(flat), _PIXELS_AT_ONCE))


def count_labels(labels: LabelMap) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The labels that occur, ascending, and the pixels of each; ten times as fast as `np.unique`, which sorts them."""
    counts = np.zeros(MAX_LABEL + 1, dtype=np.int64)
    for chunk in in_chunks(labels):
        found = np.bincount(chunk)
        counts[: len(found)] += found
    values = np.flatnonzero(counts)
    return values, counts[values]
