"""What all pictures for people to look at share.

Pictures are (H, W, 3) uint8 RGB arrays. Small images are enlarged until labels are legible on them.
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from swin_dense.files import atomic_write

Picture = NDArray[np.uint8]

LEAST_LONG_SIDE = 640
"""In pixels; a smaller image is enlarged, by a whole factor, to at least this."""

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
"""Comes with matplotlib, so it is there on every machine."""


def save_picture(path: Path, picture: Picture) -> None:
    """Writes a picture whole or not at all, creating its folder.

    Args:
        path: Where to; the suffix names the format, such as .png or .jpg.
        picture: (H, W, 3) uint8 RGB.
    """
    with atomic_write(path) as unfinished:
        Image.fromarray(picture).save(unfinished, quality=92)


def canvas_of(image: Tensor | Picture) -> Picture:
    """The picture to draw on.

    Args:
        image: (3, H, W) uint8 RGB.

    Returns:
        (H', W', 3), enlarged by a whole factor where the image is small.
    """
    array = image.cpu().numpy() if isinstance(image, Tensor) else image
    if array.ndim != 3 or array.shape[0] != 3 or array.dtype != np.uint8:
        raise ValueError(f"an image to draw on is (3, H, W) uint8, not {array.shape} {array.dtype}")
    factor = max(1, math.ceil(LEAST_LONG_SIDE / max(array.shape[1:])))
    size = (array.shape[2] * factor, array.shape[1] * factor)
    pixels = np.ascontiguousarray(array.transpose(1, 2, 0))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def font_size(canvas: Picture) -> int:
    """In pixels, such that text is legible on the canvas and hides little of it.

    Args:
        canvas: The picture to write on.
    """
    return max(12, int(min(canvas.shape[:2])) // 40)


def captioned(picture: Picture, caption: str) -> Picture:
    """Puts a line of text over a picture.

    Args:
        picture: Any.
        caption: The text.

    Returns:
        The picture with a white strip on top.
    """
    size = font_size(picture) + 2
    strip = Image.new("RGB", (picture.shape[1], 2 * size), "white")
    font = ImageFont.truetype(str(FONT), size)
    ImageDraw.Draw(strip).text((size // 2, size), caption, fill="black", font=font, anchor="lm")
    return np.concatenate([np.asarray(strip), picture])
