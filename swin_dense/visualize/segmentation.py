"""Pictures of label maps: colours over the image, and a legend of the classes below it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from swin_dense.visualize.legend import LegendEntry, with_legend
from swin_dense.visualize.palette import class_colours
from swin_dense.visualize.pictures import Picture, canvas_of, captioned, font_size

_OPACITY = 0.6
_GAP = 6  # pixels between two pictures
_UNLABELLED = "no class"

Colours = NDArray[np.uint8]
"""(K, 3) RGB."""


def draw_segmentation(
    image: Tensor | Picture,
    label_map: Tensor,
    class_names: Sequence[str],
    palette: Colours | None = None,
) -> Picture:
    """Colours the classes of an image, with a legend below it: each class's share of the pixels, largest first.

    Args:
        image: (3, H, W) uint8 RGB.
        label_map: (H, W) classes 0..K-1, or -1 where there is none; those pixels stay as they are.
        class_names: Name of every class.
        palette: (K, 3) RGB colour of every class; None for `class_colours`.

    Returns:
        (H', W', 3) picture, enlarged by a whole factor where the image is small.

    Raises:
        ValueError: If the label map is not of the image's size, or has other labels.
    """
    colours = _checked_palette(palette, len(class_names))
    labels = _checked_labels(label_map, image, len(class_names))
    painted = _painted(canvas_of(image), labels, colours)
    return with_legend(painted, _entries([labels], class_names, colours), font_size(painted))


def draw_segmentation_comparison(
    image: Tensor | Picture,
    truth: Tensor,
    predicted: Tensor,
    class_names: Sequence[str],
    palette: Colours | None = None,
) -> Picture:
    """Colours the true classes on the left and the predicted ones on the right, with one legend below both.

    Args:
        image: (3, H, W) uint8 RGB.
        truth: (H, W) classes 0..K-1, or -1 where there is none.
        predicted: (H, W) classes likewise.
        class_names: Name of every class.
        palette: (K, 3) RGB colour of every class; None for `class_colours`.

    Returns:
        (H', W', 3) picture; captions say which side is which, and how many of the pixels with a class are right.

    Raises:
        ValueError: If a label map is not of the image's size, or has other labels.
    """
    colours = _checked_palette(palette, len(class_names))
    canvas = canvas_of(image)
    wanted, found = (_checked_labels(one, image, len(class_names)) for one in (truth, predicted))
    counted = wanted >= 0
    right = f": {_percent(float((wanted == found)[counted].mean()))} of the pixels right" if counted.any() else ""
    left_side = captioned(_painted(canvas, wanted, colours), "ground truth")
    right_side = captioned(_painted(canvas, found, colours), f"predicted{right}")
    gap = np.full((left_side.shape[0], _GAP, 3), 255, dtype=np.uint8)
    both = np.concatenate([left_side, gap, right_side], axis=1)
    return with_legend(both, _entries([wanted, found], class_names, colours), font_size(canvas))


def _checked_palette(palette: Colours | None, class_count: int) -> Colours:
    colours = class_colours(class_count) if palette is None else palette
    if colours.shape != (class_count, 3) or colours.dtype != np.uint8:
        raise ValueError(f"a palette of {class_count} classes is ({class_count}, 3) uint8, not {colours.shape}")
    return colours


def _checked_labels(label_map: Tensor, image: Tensor | Picture, class_count: int) -> NDArray[np.int64]:
    """(H, W) classes 0..K-1, and -1 where there is none."""
    labels: NDArray[np.int64] = label_map.detach().cpu().numpy().astype(np.int64)
    if labels.shape != tuple(image.shape[-2:]):
        raise ValueError(f"a label map of {labels.shape} cannot be drawn on an image of {tuple(image.shape[-2:])}")
    if ((labels < -1) | (labels >= class_count)).any():
        raise ValueError(f"labels to draw are 0..{class_count - 1} or -1, not {np.unique(labels).tolist()}")
    return labels


def _painted(canvas: Picture, labels: NDArray[np.int64], colours: Colours) -> Picture:
    """The canvas with the classes' colours over it and thin white lines between them."""
    factor = canvas.shape[0] // labels.shape[0]
    labels = labels.repeat(factor, axis=0).repeat(factor, axis=1)
    blended = np.rint(canvas * np.float32(1 - _OPACITY) + colours[labels.clip(min=0)] * np.float32(_OPACITY))
    painted: Picture = np.where(labels[..., None] >= 0, blended, canvas).astype(np.uint8)
    borders = np.zeros(labels.shape, dtype=bool)
    borders[1:] |= labels[1:] != labels[:-1]
    borders[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    painted[borders] = painted[borders] // 3 + 170
    return painted


def _entries(
    label_maps: Sequence[NDArray[np.int64]], class_names: Sequence[str], colours: Colours
) -> list[LegendEntry]:
    """A line for every class in any of the maps, that with most pixels first, and at the end one for no class."""
    bins = len(class_names) + 1  # the first is for no class
    shares = np.array([np.bincount(one.reshape(-1) + 1, minlength=bins) / one.size for one in label_maps])
    largest_first = np.argsort(-shares.sum(axis=0), kind="stable").tolist()
    return [
        LegendEntry(
            colour=colours[position - 1] if position else None,
            figures=tuple(_percent(share) for share in shares[:, position].tolist()),
            name=class_names[position - 1] if position else _UNLABELLED,
        )
        for position in sorted(largest_first, key=lambda position: position == 0)
        if shares[:, position].any()
    ]


def _percent(share: float) -> str:
    """A share as text; none at all is told from one that rounds to nothing."""
    if share == 0:
        return "\u2013"
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"
