"""Images that look alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

ALIKE = 6
"""Of the 64 bits of two images' difference hashes, how many may differ for them to look alike."""

ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)
"""Bits that are set in each byte."""

Hash = npt.NDArray[np.uint8]


def difference_hash(pixels: npt.NDArray[np.uint8]) -> Hash:
    """(64,) bits of an (H, W, 3) image: whether each of 8 x 8 parts is brighter than the one to its left."""
    small = np.asarray(Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return (np.diff(small, axis=1) > 0).astype(np.uint8).reshape(-1)


def group_alike(hashes: Sequence[Hash]) -> list[str]:
    """A group for each image: those that a chain of images joins, of which each looks like the next.

    Of `ALIKE` + 1 blocks of bits, two hashes that differ in `ALIKE` at most have one in common, so only those with a
    common block are compared.
    """
    rows = np.packbits(np.array(hashes, dtype=np.uint8).reshape(-1, 64), axis=1)
    packed, own = np.unique(rows, axis=0, return_inverse=True)
    bits, group = np.unpackbits(packed, axis=1), list(range(len(packed)))

    def first(place: int) -> int:
        while group[place] != place:
            group[place] = place = group[group[place]]
        return place

    for block in np.array_split(np.arange(64), ALIKE + 1):
        keys = bits[:, block] @ (1 << np.arange(len(block)))
        order = np.argsort(keys, kind="stable")
        for bucket in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
            for place, member in enumerate(bucket[:-1].tolist(), 1):
                differ = ONES[packed[bucket[place:]] ^ packed[member]].sum(axis=1)
                for other in bucket[place:][differ <= ALIKE].tolist():
                    group[first(other)] = first(member)
    return [str(first(place)) for place in own.reshape(-1).tolist()]
