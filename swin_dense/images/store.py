"""Image files, from a folder or straight from a zip file, as uint8 RGB tensors.

Whatever the file holds (grayscale, palette, CMYK, alpha, 16 bit, a turned camera), what comes out is (3, H, W) uint8
RGB as the annotations see it, or an error that names the file.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from torchvision import tv_tensors

from swin_dense.errors import DataError
from swin_dense.images.archive import ZipIndex, locate
from swin_dense.records import Size

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
"""Formats that are read. Others that Pillow knows are no photographs, and some of them (EPS) run programs."""

MAX_BYTES = 2**30
"""Largest image file taken from a zip file; a larger one is no picture but an attack on memory."""

MAX_PIXELS = 2**30
"""Most pixels of an image. At 4 bytes each this is 4 GiB while it is decoded, and 3 GiB afterwards: aerial and
microscope pictures are that large, and beyond it a file of some kilobytes could fill any memory. Pillow's own limit, a
sixth of it, is for web pages."""

ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation (EXIF 2.3, tag 274)."""

SIDEWAYS = tuple(ORIENTATIONS[number] for number in (5, 6, 7, 8))
"""Turns that swap height and width."""


def escapes(file_name: str) -> bool:
    """Whether a file name leads, or on some system could lead, out of the folder it belongs to.

    Args:
        file_name: As an annotation file gives it.

    Returns:
        True for an absolute path, a drive, a `..` in it, an empty name, or a NUL character.
    """
    parts = file_name.replace("\\", "/").split("/")
    is_absolute = parts[0] == "" or parts[0][1:2] == ":"
    return is_absolute or ".." in parts or parts[-1] == "" or "\0" in file_name


class ImageError(DataError):
    """An image cannot be used.

    Attributes:
        kind: "missing-image", "unreadable-image", "image-size" or "escaping-file-name".
        fault: What is wrong with it.
        fix: What to do.
    """

    def __init__(self, path: Path, kind: str, fault: str, fix: str) -> None:
        """Names the file, the fault and the fix.

        Args:
            path: The image file.
            kind: Which rule it breaks.
            fault: What is wrong with it.
            fix: What to do.
        """
        super().__init__(f"{path}: {fault}; {fix}")
        self.kind, self.fault, self.fix = kind, fault, fix


class ImageStore:
    """The images of a data set: a folder, a zip file that is read without being unpacked, or a folder in a zip file.

    In a zip file an image is found under its own name, under a folder named like the zip file (`train2017.zip` holds
    `train2017/000000000009.jpg`), or under the one folder that everything lies in. Nothing stays open between two
    reads, so that a store may be used in forked and spawned workers alike.
    """

    def __init__(self, root: Path) -> None:
        """Opens a folder or a zip file.

        Args:
            root: The folder, the zip file, or a folder inside one: `ADEChallengeData2016.zip/images/training`.

        Raises:
            DataError: It is none of them.
        """
        self.root = Path(root)
        self._zip: ZipIndex | None = None
        self._folder = ""
        if self.root.is_dir():
            return
        place = (ZipIndex.open(self.root), "") if self.root.is_file() else locate(self.root)
        if place is None:
            raise DataError(f"{self.root}: no such folder or zip file of images")
        self._zip, inside = place
        top = inside or self._zip.top_folder()
        self._folder = f"{top}/" if top else ""
        self._prefixes = (self._folder,) if inside else tuple(dict.fromkeys(("", f"{self.root.stem}/", self._folder)))
        if inside and not any(self._zip.names_below(self._folder)):
            raise DataError(f"{self.root}: no such folder in the zip file")

    def __contains__(self, file_name: str) -> bool:
        """Whether there is a file of this name."""
        if escapes(file_name):
            return False
        if self._zip is None:
            return (self.root / file_name).is_file()
        return self._member(self._zip, file_name) is not None

    def names(self) -> list[str]:
        """Names of all files, those in subfolders too, sorted; hidden ones (`.DS_Store`, `._1.jpg`) are left out."""
        if self._zip is None:
            files = (path for path in self.root.rglob("*") if path.is_file())
            below = [path.relative_to(self.root).as_posix() for path in files]
        else:
            below = list(self._zip.names_below(self._folder))
        return sorted(name for name in below if not any(part.startswith(".") for part in name.split("/")))

    def read(self, file_name: str, expected_size: Size | None = None) -> tv_tensors.Image:
        """Decodes one image.

        The EXIF orientation is applied, unless `expected_size` shows that the annotations were made on the raster as
        it is stored: then they would not fit the turned image.

        Args:
            file_name: Relative to the root.
            expected_size: Height and width that the annotations give.

        Returns:
            (3, H, W) uint8 RGB. Alpha is dropped; 16-bit values are scaled to 8 bits.

        Raises:
            ImageError: The file is missing, outside the root, no image, damaged, of an unsupported pixel format, or not
                of the expected size.
        """
        with self.open(file_name) as image:
            turn = _orientation(image, self.root / file_name, expected_size)
            pixels = _to_rgb(image if turn is None else image.transpose(turn), self.root / file_name)
        return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())

    def _member(self, index: ZipIndex, file_name: str) -> str | None:
        """Full name in the zip file."""
        return next((prefix + file_name for prefix in self._prefixes if prefix + file_name in index), None)

    @contextmanager
    def open(self, file_name: str, formats: Sequence[str] = FORMATS) -> Iterator[ImageFile.ImageFile]:
        """Opens one image, its header read but not its pixels.

        Args:
            file_name: Relative to the root.
            formats: Formats that may be read.

        Yields:
            The image as it is stored.

        Raises:
            ImageError: The file cannot be used; or anything went wrong while the caller decoded it.
        """
        path = self.root / file_name
        if escapes(file_name):
            fix = "name it relative to that folder"
            raise ImageError(path, "escaping-file-name", f"leads out of {self.root}", fix)
        try:
            with _limit_of_pillow_lifted(), Image.open(self._source(path, file_name), formats=tuple(formats)) as image:
                _check_pixels(image, path)
                yield image
        except ImageError:
            raise
        except FileNotFoundError as error:
            fix = "restore it or remove the image from the annotations"
            raise ImageError(path, "missing-image", "no such file", fix) from error
        except UnidentifiedImageError as error:
            fix = f"use one of {', '.join(formats)}"
            raise ImageError(path, "unreadable-image", "not an image in a known format", fix) from error
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            raise ImageError(path, "unreadable-image", f"cannot be decoded ({error})", "restore the file") from error

    def _source(self, path: Path, file_name: str) -> Path | io.BytesIO:
        """What Pillow is to open."""
        if self._zip is not None:
            member = self._member(self._zip, file_name)
            if member is None:
                raise FileNotFoundError
            return io.BytesIO(self._zip.read(member, MAX_BYTES))
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise ImageError(path, "unreadable-image", "not a file", "put the image file there")
        return path


@contextmanager
def _limit_of_pillow_lifted() -> Iterator[None]:
    """Leaves it to us how large an image may be, while ours are opened and decoded (TIFF is checked once more then).

    The limit is the whole process's; images are read in several processes, not threads.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_pixels(image: Image.Image, path: Path) -> None:
    """Refuses what is too large to be decoded; only the header has been read."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        fault = f"{image.width} wide and {image.height} high, {pixels} pixels, more than the {MAX_PIXELS} allowed"
        raise ImageError(path, "unreadable-image", fault, "cut it into tiles")


def _orientation(image: Image.Image, path: Path, expected_size: Size | None) -> Image.Transpose | None:
    """How the stored raster is to be turned, if at all."""
    stored = (image.height, image.width)
    try:
        turn = ORIENTATIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged EXIF block is no reason to refuse the pixels; viewers ignore it too
        turn = None
    shown = stored[::-1] if turn in SIDEWAYS else stored
    if expected_size is None or expected_size == shown:
        return turn
    if expected_size == stored:
        return None
    (height, width), (expected_height, expected_width) = shown, expected_size
    fault = f"{width} wide and {height} high, but annotated as {expected_width} wide and {expected_height} high"
    raise ImageError(path, "image-size", fault, "restore the image that was annotated, or correct the annotations")


def _to_rgb(image: Image.Image, path: Path) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB pixels of a Pillow image of any mode."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            fault = f"pixels of mode {image.mode} without a known range of brightness"
            raise ImageError(path, "unreadable-image", fault, "save it with 8 or 16 bits per channel")
        gray = np.rint(values / 257).astype(np.uint8)  # 65535 / 257 = 255
        return np.repeat(gray[..., None], 3, axis=2)
    if "transparency" in image.info:
        image = image.convert("RGBA")  # so that Pillow does not blend the transparent palette entry
    return np.array(image.convert("RGB"))
