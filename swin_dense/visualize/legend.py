"""Legends in a strip of their own, which hides nothing of the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from swin_dense.visualize.pictures import FONT, Picture

_WIDEST_NAME = 12  # in font sizes
_INK, _FAINT_INK, _OUTLINE = "#1a1a1a", "#666666", "#999999"


@dataclass(frozen=True)
class LegendEntry:
    """One line of a legend.

    Attributes:
        colour: (3,) RGB uint8; None for what is left uncoloured, shown by an empty box.
        figures: What is said of it, between its box and its name; as many for every entry of a legend.
        name: What is drawn.
    """

    colour: NDArray[np.uint8] | None
    figures: tuple[str, ...]
    name: str


def with_legend(picture: Picture, entries: Sequence[LegendEntry], size: int) -> Picture:
    """Puts a legend below a picture, in as many columns as fit, to be read down the columns.

    Args:
        picture: Any.
        entries: The lines of the legend, in order.
        size: Of its font, in pixels.

    Returns:
        The picture with a white strip below it, as high as it takes; a picture narrower than one column is filled up
        on the right. A name too long for a column loses its end.
    """
    font = ImageFont.truetype(str(FONT), size)
    margin, line, space, gap = size, int(1.7 * size), 2 * size // 3, int(1.5 * size)
    names = [_shortened(entry.name, _WIDEST_NAME * size, font) for entry in entries]
    figure_widths = [
        _widest(figures, font) + space for figures in zip(*(entry.figures for entry in entries), strict=True)
    ]
    figure_ends = size + np.cumsum(figure_widths, dtype=int)
    name_start = size + sum(figure_widths) + space
    column = name_start + _widest(names, font)
    width = max(picture.shape[1], column + 2 * margin)
    columns = (width - 2 * margin + gap) // (column + gap)
    rows = -(-len(entries) // columns)
    strip = Image.new("RGB", (width, rows * line + margin), "white")
    draw = ImageDraw.Draw(strip)
    for number, (entry, name) in enumerate(zip(entries, names, strict=True)):
        left = margin + number // rows * (column + gap)
        middle = margin // 2 + number % rows * line + line // 2
        fill = None if entry.colour is None else (int(entry.colour[0]), int(entry.colour[1]), int(entry.colour[2]))
        draw.rectangle((left, middle - size // 2, left + size, middle + size // 2), fill=fill, outline=_OUTLINE)
        for end, figure in zip(figure_ends.tolist(), entry.figures, strict=True):
            draw.text((left + end, middle), figure, fill=_FAINT_INK, font=font, anchor="rm")
        draw.text((left + name_start, middle), name, fill=_INK, font=font, anchor="lm")
    filled = np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)
    return np.concatenate([filled, np.asarray(strip)])


def _widest(texts: Sequence[str], font: ImageFont.FreeTypeFont) -> int:
    """Pixels that the widest of some texts takes."""
    return math.ceil(max(map(font.getlength, texts), default=0))


def _shortened(name: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """The name as far as it fits."""
    if font.getlength(name) <= width:
        return name
    while name and font.getlength(name + "\u2026") > width:
        name = name[:-1]
    return name.rstrip() + "\u2026"
