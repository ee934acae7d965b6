"""Colours of classes: the first ones chosen by hand, the others as far from each other as colours can be."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

WHITE, BLACK = "#ffffff", "#000000"
COLOURS = {  # of the objects of a class, and of the text on it
    "#e6194b": WHITE, "#4363d8": WHITE, "#2a9d3a": WHITE, "#f58231": BLACK, "#911eb4": WHITE, "#42d4f4": BLACK,
    "#f032e6": WHITE, "#9a6324": WHITE, "#ffe119": BLACK, "#008080": WHITE, "#800000": WHITE, "#bfef45": BLACK,
    "#000075": WHITE, "#808000": WHITE, "#fabed4": BLACK, "#aaffc3": BLACK, "#dcbeff": BLACK, "#ffd8b1": BLACK,
}  # fmt: skip

DISTINCT_COLOURS = 256
"""More classes than this share colours; eyes give up long before."""

_XYZ_OF_RGB = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_XYZ_OF_RGB /= _XYZ_OF_RGB.sum(axis=1, keepdims=True)  # white is (1, 1, 1)

_LEVELS = (0, 36, 73, 109, 146, 182, 219, 255)


def class_colours(count: int) -> NDArray[np.uint8]:
    """Colours for any number of classes; a class keeps its colour whatever the number.

    Args:
        count: Number K of classes.

    Returns:
        (K, 3) RGB.
    """
    return _distinct_colours()[np.arange(count) % DISTINCT_COLOURS]


@cache
def _distinct_colours() -> NDArray[np.uint8]:
    """`COLOURS`, then always the colour farthest in CIELAB from those before; none is nearly black or white."""
    first = np.array([list(bytes.fromhex(colour[1:])) for colour in COLOURS], dtype=np.uint8)
    grid = np.stack(np.meshgrid(*[np.array(_LEVELS, dtype=np.uint8)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[(_lab(grid)[:, 0] > 20) & (_lab(grid)[:, 0] < 93)]
    colours, places = list(first), _lab(grid)
    distance = np.linalg.norm(places[:, None] - _lab(first)[None], axis=-1).min(axis=1)
    while len(colours) < DISTINCT_COLOURS:
        farthest = int(distance.argmax())
        colours.append(grid[farthest])
        distance = np.minimum(distance, np.linalg.norm(places - places[farthest], axis=-1))
    return np.array(colours, dtype=np.uint8)


def _lab(colours: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 3) CIELAB of (N, 3) RGB; lightness is 0..100."""
    encoded = colours / 255
    linear = np.where(encoded > 0.04045, ((encoded + 0.055) / 1.055) ** 2.4, encoded / 12.92)  # sRGB
    xyz = linear @ _XYZ_OF_RGB.T
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)
