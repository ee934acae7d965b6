"""Images that look alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

ALIKE = 6
"""Of the 64 bits of two images' difference hashes, how many may differ for them to look alike."""

Hash = npt.NDArray[np.uint8]


def difference_hash(pixels: npt.NDArray[np.uint8]) -> Hash:
    """(64,) bits of an (H, W, 3) image: whether each of 8 x 8 parts is brighter than the one to its left."""
    small = np.asarray(Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return (np.diff(small, axis=1) > 0).astype(np.uint8).reshape(-1)


def group_alike(hashes: Sequence[Hash]) -> list[str]:
    """A group for each image: those that a chain of images joins, of which each looks like the next."""
    bits = np.array(hashes, dtype=np.float32).reshape(-1, 64)
    group = list(range(len(bits)))

    def first(place: int) -> int:
        while group[place] != place:
            group[place] = place = group[group[place]]
        return place

    for place in range(len(bits)):
        differ = np.abs(bits[place + 1 :] - bits[place]).sum(axis=1)
        for other in np.flatnonzero(differ <= ALIKE).tolist():
            group[first(place + 1 + other)] = first(place)
    return [str(first(place)) for place in range(len(bits))]
