"""From an opened image file to pixels: (3, H, W) uint8 RGB whatever is stored, turned as its viewer would see it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from swin_dense.records import Size

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
"""Formats that are read. Others that Pillow knows are no photographs, and some of them (EPS) run programs."""

MAX_PIXELS = 2**30
"""Most pixels of an image: aerial and microscope pictures are that large. Beyond it a file of some kilobytes could fill
any memory; Pillow's own limit, a sixth of it, is for web pages. Reading takes 7 bytes a pixel, of which 3 stay."""

LARGE = 2**25
PIXELS_PER_BYTE = 2**12
"""Images beyond `LARGE` pixels must have a byte in their file for every so many: less is a file without its content."""

BAND_PIXELS = 2**24
"""Pixels that are converted at a time."""

UNTURN: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda shown: shown,
    2: lambda shown: shown[..., ::-1],
    3: lambda shown: shown[..., ::-1, ::-1],
    4: lambda shown: shown[..., ::-1, :],
    5: lambda shown: shown.swapaxes(1, 2),
    6: lambda shown: np.rot90(shown, 1, (1, 2)),
    7: lambda shown: shown[..., ::-1, ::-1].swapaxes(1, 2),
    8: lambda shown: np.rot90(shown, -1, (1, 2)),
}
"""By EXIF orientation (EXIF 2.3, tag 274), from the (3, H, W) picture that is shown to a view of it as it is stored."""

SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap height and width."""


class BrightnessError(ValueError):
    """Pixels have no known range of brightness."""


class _PillowsLimit:
    """Lifts Pillow's limit on sizes, which is the whole process's, while any thread here opens or decodes an image."""

    def __init__(self) -> None:
        self.lock, self.users, self.limit = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """The first to come lifts it and the last to leave restores it."""
        with self.lock:
            if not self.users:
                self.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self.users += 1
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                if not self.users:
                    Image.MAX_IMAGE_PIXELS = self.limit


pillows_limit = _PillowsLimit()


def implausible_size(width: int, height: int, file_bytes: int) -> str | None:
    """What is wrong with the size that a header states, before anything is decoded."""
    if width * height > MAX_PIXELS:
        size = f"{width} wide and {height} high, {width * height} pixels"
        return f"{size}, more than the {MAX_PIXELS} allowed; cut it into tiles"
    if width * height > max(LARGE, PIXELS_PER_BYTE * file_bytes):
        return f"claims to be {width} wide and {height} high in {file_bytes} bytes; restore the file"
    return None


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; a damaged EXIF block is no reason to refuse the pixels."""
    try:
        orientation: Any = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return orientation if type(orientation) is int and orientation in UNTURN else 1


def shown_size(image: Image.Image, orientation: int) -> Size:
    """Height and width once it is turned."""
    return (image.width, image.height) if orientation in SIDEWAYS else (image.height, image.width)


def decode(image: Image.Image, orientation: int) -> Pixels:
    """(3, H, W) RGB, turned; band by band, so that no second copy of a large image is held.

    Raises:
        BrightnessError: Its pixels have no known range of brightness.
    """
    shown = np.empty((3, *shown_size(image, orientation)), dtype=np.uint8)
    stored = UNTURN[orientation](shown)
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        whole = bottom - top == image.height
        band = image if whole else image.crop((0, top, image.width, bottom))
        stored[:, top:bottom] = _to_rgb(band).transpose(2, 0, 1)
    return shown


def _to_rgb(image: Image.Image) -> Pixels:
    """(H, W, 3) RGB pixels of a Pillow image of any mode; alpha is dropped, 16-bit values are scaled to 8 bits."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise BrightnessError(f"pixels of mode {image.mode} without a known range of brightness")
        gray = np.rint(values / 257).astype(np.uint8)  # 65535 / 257 = 255
        return np.repeat(gray[..., None], 3, axis=2)
    if "transparency" in image.info:
        image = image.convert("RGBA")  # so that Pillow does not blend the transparent palette entry
    return np.asarray(image.convert("RGB"))
