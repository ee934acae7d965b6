"""What all pictures share: the canvas, text, captions, legends and the colours of classes. Pillow draws them.

Pictures are (H, W, 3) uint8 RGB arrays.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from swin_dense.errors import DataError
from swin_dense.files import atomic_write

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

LEAST_LONG_SIDE = 640
"""In pixels; a smaller image is enlarged, by a whole factor, to at least this, so that labels are legible on it."""

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
"""Comes with matplotlib, so it is there on every machine; it has Latin, Greek, Cyrillic, Arabic and more."""

_WIDEST_NAME = 12  # in a legend, in font sizes
_INK, _FAINT_INK, _OUTLINE = "#1a1a1a", "#666666", "#999999"


def spread(count: int, most: int) -> list[int]:
    """Up to `most` places of a row of `count`, evenly from its first to its last."""
    places: list[int] = np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()
    return places


def as_picture(image: Tensor | Picture | Image.Image) -> Picture:
    """The pixels of a Pillow image, (H, W, 3) or (3, H, W) uint8 array, or (3, H, W) uint8 tensor; RGB."""
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.ndim == 3 and array.dtype == np.uint8:
        if array.shape[2] == 3 and not isinstance(image, Tensor):
            return array
        if array.shape[0] == 3:
            return np.ascontiguousarray(array.transpose(1, 2, 0))
    raise DataError(
        "an image to draw on is a Pillow image, a (H, W, 3) uint8 array or a (3, H, W) uint8 tensor, "
        f"not {array.shape} {array.dtype}"
    )


def enlarged(picture: Picture) -> Picture:
    """A copy to draw on, enlarged by a whole factor where the image is small."""
    height, width = picture.shape[:2]
    factor = max(1, math.ceil(LEAST_LONG_SIDE / max(height, width)))
    resized = Image.fromarray(picture).resize((width * factor, height * factor), Image.Resampling.BICUBIC)
    return np.array(resized)


def save_picture(path: Path, picture: Picture) -> None:
    """Writes a picture whole or not at all, and makes its folder; the suffix names the format, such as .png or .jpg."""
    with atomic_write(path) as unfinished:
        Image.fromarray(picture).save(unfinished, quality=92)


def beside(left: Picture, right: Picture) -> Picture:
    """Two pictures of one height side by side, a white gap between them."""
    gap = np.full((left.shape[0], 6, 3), 255, dtype=np.uint8)
    return np.concatenate([left, gap, right], axis=1)


# Colours


def class_colours(count: int) -> NDArray[np.uint8]:
    """(count, 3) RGB colours of classes; a class keeps its colour whatever the number. The 257th has that of the first.

    They are colorcet's "glasbey_light": each as far as possible in perceived colour from those before it.
    """
    return _glasbey()[np.arange(count) % len(_glasbey())]


@cache
def _glasbey() -> NDArray[np.uint8]:
    from colorcet import glasbey_light  # at its first use: it takes half a second to import

    return np.array([list(bytes.fromhex(colour[1:])) for colour in glasbey_light], dtype=np.uint8)


def as_colour(rgb: NDArray[np.uint8]) -> Colour:
    """An RGB triple as Pillow takes it."""
    red, green, blue = rgb.tolist()
    return red, green, blue


def ink_on(colour: Colour) -> str:
    """The colour of text that is legible on another colour."""
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


# Text


@dataclass(frozen=True)
class Text:
    """A text with a font that has all of its characters."""

    text: str
    font: ImageFont.FreeTypeFont

    @property
    def width(self) -> int:
        """In pixels, rounded up."""
        return math.ceil(self.font.getlength(self.text))

    def shortened(self, width: float) -> Text:
        """The text as far as it fits into a width."""
        kept = self.text
        while kept and self.font.getlength(kept + ("…" if kept != self.text else "")) > width:
            kept = kept[:-1]
        return self if kept == self.text else Text(kept.rstrip() + "…", self.font)


def text_of(text: str, size: int) -> Text:
    """A text in a font of this machine that has its characters; where none has, they are written as their numbers."""
    path = font_for(text)
    if path is None:
        _warn_of(text)
        text, path = escaped(text), FONT
    return Text(text, _font(path, size))


def font_for(text: str) -> Path | None:
    """The font file to write a text with: ours, or else the first on this machine that has every character."""
    needed = frozenset(map(ord, text))
    return FONT if needed <= _characters(FONT) else _font_with(needed)


def escaped(text: str) -> str:
    """A text in which characters that our font lacks are written as their numbers (hexadecimal, behind a backslash)."""
    known = _characters(FONT)
    return "".join(one if ord(one) in known else ascii(one)[1:-1] for one in text)


@cache
def _font_with(needed: frozenset[int]) -> Path | None:
    upright = (400, "normal")
    entries = sorted(
        fontManager.ttflist, key=lambda one: (one.style != "normal", one.weight not in upright, str(one.fname))
    )
    # "Last Resort" fonts have an empty box for every character there is.
    paths = (Path(one.fname) for one in entries if "lastresort" not in Path(one.fname).name.lower())
    return next((path for path in paths if needed <= _characters(path)), None)


@cache
def _characters(path: Path) -> frozenset[int]:
    try:
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):  # removed since matplotlib listed it, or of a kind that cannot be read
        return frozenset()


@cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)


@cache
def _warn_of(text: str) -> None:
    logging.getLogger(__name__).warning(
        'no font on this machine has all characters of "%s": pictures show %s. Install a font of that script, such as '
        "one of the Noto fonts",
        text,
        escaped(text),
    )


def font_size(canvas: Picture) -> int:
    """In pixels, such that text is legible on the canvas and hides little of it."""
    return max(12, int(min(canvas.shape[:2])) // 40)


def captioned(picture: Picture, caption: str) -> Picture:
    """A picture with a line of text in a white strip on top."""
    size = font_size(picture) + 2
    strip = Image.new("RGB", (picture.shape[1], 2 * size), "white")
    text = text_of(caption, size)
    ImageDraw.Draw(strip).text((size // 2, size), text.text, fill="black", font=text.font, anchor="lm")
    return np.concatenate([np.asarray(strip), picture])


# Legends


@dataclass(frozen=True)
class LegendEntry:
    """One line of a legend.

    Attributes:
        colour: None for what is left uncoloured, shown by an empty box.
        numbers: What is written between box and name; as many for every entry of a legend.
        name: What is drawn.
    """

    colour: Colour | None
    numbers: tuple[str, ...]
    name: str


def with_legend(picture: Picture, entries: Sequence[LegendEntry], size: int) -> Picture:
    """Puts a legend in a white strip below a picture, in as many columns as fit, to be read down the columns.

    A picture narrower than one column is filled up on the right; a name too long for a column loses its end. `size` is
    that of the font, in pixels.
    """
    margin, line, space, gap = size, int(1.7 * size), 2 * size // 3, int(1.5 * size)
    names = [text_of(entry.name, size).shortened(_WIDEST_NAME * size) for entry in entries]
    numbers = [[text_of(number, size) for number in entry.numbers] for entry in entries]
    widths = [max(one.width for one in column) + space for column in zip(*numbers, strict=True)]
    number_ends = size + np.cumsum(widths, dtype=int)
    name_start = size + sum(widths) + space
    column = name_start + max((name.width for name in names), default=0)
    width = max(picture.shape[1], column + 2 * margin)
    columns = (width - 2 * margin + gap) // (column + gap)
    rows = -(-len(entries) // columns)
    strip = Image.new("RGB", (width, rows * line + margin), "white")
    draw = ImageDraw.Draw(strip)
    for number, entry in enumerate(entries):
        left = margin + number // rows * (column + gap)
        middle = margin // 2 + number % rows * line + line // 2
        draw.rectangle((left, middle - size // 2, left + size, middle + size // 2), fill=entry.colour, outline=_OUTLINE)
        for end, one in zip(number_ends.tolist(), numbers[number], strict=True):
            draw.text((left + end, middle), one.text, fill=_FAINT_INK, font=one.font, anchor="rm")
        name = names[number]
        draw.text((left + name_start, middle), name.text, fill=_INK, font=name.font, anchor="lm")
    filled = np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)
    return np.concatenate([filled, np.asarray(strip)])


def with_legend_inside(picture: Picture, entries: Sequence[LegendEntry], size: int) -> Picture:
    """Lets the legend shine over the lower half of a picture instead, as far as it fits in there."""
    strip = with_legend(picture[:0], entries, size)[: len(picture) // 2, : picture.shape[1]]
    upper, lower = np.split(picture, [len(picture) - len(strip)])
    return np.concatenate([upper, np.asarray(Image.blend(Image.fromarray(lower), Image.fromarray(strip), 0.7))])
