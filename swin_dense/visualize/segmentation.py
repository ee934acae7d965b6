"""Pictures of label maps: colours over the image, and a legend of the classes below it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from swin_dense.errors import DataError
from swin_dense.visualize.pictures import (
    LegendEntry,
    Picture,
    as_colour,
    as_picture,
    beside,
    captioned,
    class_colours,
    enlarged,
    font_size,
    with_legend,
    with_legend_inside,
)

_OPACITY = 0.6
_UNLABELLED = "no class"

Colours = NDArray[np.uint8]
"""(K, 3) RGB."""


def draw_segmentation(
    image: Tensor | Picture | Image.Image,
    label_map: Tensor,
    class_names: Sequence[str],
    palette: Colours | None = None,
    *,
    as_frame: bool = False,
) -> Picture:
    """Colours the classes of an image, with a legend below it: each class's share of the pixels, largest first.

    The image is a (3, H, W) uint8 RGB tensor, an (H, W, 3) array or a Pillow image; the label map (H, W) of its size
    has classes 0..K-1, or -1 where there is none: those pixels stay as they are. Without a (K, 3) RGB palette the
    colours are `class_colours`. The picture (H', W', 3) is enlarged by a whole factor where the image is small, but not
    `as_frame` of a video: that keeps the size of the image, and the legend, in the order of the classes, lies on it.
    """
    picture = as_picture(image)
    colours = _checked_palette(palette, len(class_names))
    labels = _checked_labels(label_map, picture, len(class_names))
    if as_frame:
        present = [label for label in np.unique(labels).tolist() if label >= 0]
        entries = [LegendEntry(as_colour(colours[label]), (), class_names[label]) for label in present]
        return with_legend_inside(_painted(picture, labels, colours), entries, font_size(picture))
    painted = _painted(enlarged(picture), labels, colours)
    return with_legend(painted, _entries([labels], class_names, colours), font_size(painted))


def draw_segmentation_comparison(
    image: Tensor | Picture | Image.Image,
    truth: Tensor,
    predicted: Tensor,
    class_names: Sequence[str],
    palette: Colours | None = None,
) -> Picture:
    """Colours the true classes on the left and the predicted ones on the right, with one legend below both.

    Captions say which side is which, and how many of the pixels with a class are right.
    """
    picture = as_picture(image)
    colours = _checked_palette(palette, len(class_names))
    canvas = enlarged(picture)
    wanted, found = (_checked_labels(one, picture, len(class_names)) for one in (truth, predicted))
    counted = wanted >= 0
    right = f": {_percent(float((wanted == found)[counted].mean()))} of the pixels right" if counted.any() else ""
    both = beside(
        captioned(_painted(canvas, wanted, colours), "ground truth"),
        captioned(_painted(canvas, found, colours), f"predicted{right}"),
    )
    return with_legend(both, _entries([wanted, found], class_names, colours), font_size(canvas))


def _checked_palette(palette: Colours | None, class_count: int) -> Colours:
    colours = class_colours(class_count) if palette is None else palette
    if colours.shape != (class_count, 3) or colours.dtype != np.uint8:
        raise DataError(f"a palette of {class_count} classes is ({class_count}, 3) uint8, not {colours.shape}")
    return colours


def _checked_labels(label_map: Tensor, picture: Picture, class_count: int) -> NDArray[np.int64]:
    """(H, W) classes 0..K-1, and -1 where there is none."""
    labels: NDArray[np.int64] = label_map.detach().cpu().numpy().astype(np.int64)
    if labels.shape != picture.shape[:2]:
        raise DataError(f"a label map of {labels.shape} cannot be drawn on an image of {picture.shape[:2]}")
    if ((labels < -1) | (labels >= class_count)).any():
        raise DataError(f"labels to draw are 0..{class_count - 1} or -1, not {np.unique(labels).tolist()}")
    return labels


def _painted(canvas: Picture, labels: NDArray[np.int64], colours: Colours) -> Picture:
    """The canvas with the classes' colours over it and thin white lines between them."""
    factor = canvas.shape[0] // labels.shape[0]
    labels = labels.repeat(factor, axis=0).repeat(factor, axis=1)
    covered = Image.blend(Image.fromarray(canvas), Image.fromarray(colours[labels.clip(min=0)]), _OPACITY)
    painted = np.array(covered)
    painted[labels < 0] = canvas[labels < 0]
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
            colour=as_colour(colours[position - 1]) if position else None,
            numbers=tuple(_percent(share) for share in shares[:, position].tolist()),
            name=class_names[position - 1] if position else _UNLABELLED,
        )
        for position in sorted(largest_first, key=lambda position: position == 0)
        if shares[:, position].any()
    ]


def _percent(share: float) -> str:
    """A share as text; none at all differs from one that rounds to nothing."""
    if share == 0:
        return "\u2013"
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"
