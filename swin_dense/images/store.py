"""Image files, from a folder or straight from a zip file, as uint8 RGB tensors.

Whatever the file holds (grayscale, palette, CMYK, alpha, 16 bit, a turned camera), what comes out is (3, H, W) uint8
RGB as the annotations see it, or an error that names the file.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from torchvision import tv_tensors

from swin_dense.errors import DataError
from swin_dense.files import is_there
from swin_dense.images.files import Archive, NearNames, escapes, list_files, locate, missing_files, visible
from swin_dense.records import Size

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
"""Formats that are read. Others that Pillow knows are no photographs, and some of them (EPS) run programs."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How such a file begins."""

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

    Pixel by pixel in memory, as decoders write and torch's uint8 kernels of resizing read it (2.7 times as fast).

    Raises:
        BrightnessError: Its pixels have no known range of brightness.
    """
    shown: Pixels = np.empty((*shown_size(image, orientation), 3), dtype=np.uint8).transpose(2, 0, 1)
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


MAX_BYTES = 2**30
"""Largest image file taken from a zip file; a larger one is no picture but an attack on memory."""


class ImageError(DataError):
    """An image cannot be used.

    Attributes:
        kind: "missing-image", "unreadable-image", "image-size", "label-format" or "escaping-file-name".
        fault: What is wrong with it.
        fix: What to do.
    """

    def __init__(self, path: Path, kind: str, fault: str, fix: str) -> None:
        super().__init__(f"{path}: {fault}; {fix}")
        self.kind, self.fault, self.fix = kind, fault, fix


class ImageStore:
    """The images of a data set: a folder, a zip file that is read without being unpacked, or a folder in a zip file.

    In a zip file an image is found under its own name, under a folder named like the zip file (`train2017.zip` holds
    `train2017/000000000009.jpg`), or under the one folder that everything lies in. A store may be used in several
    threads, and in forked and spawned workers alike.

    Attributes:
        class_names: By label, where the files of images say it.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, root: Path) -> None:
        """Opens a folder, a zip file, or a folder inside one: `ADEChallengeData2016.zip/images/training`."""
        self.root = Path(root)
        self._zip: Archive | None = None
        self._folder = ""
        self._near: NearNames | None = None
        try:
            if is_there(self.root) and self.root.is_dir():
                return
            place = (Archive(self.root), "") if self.root.is_file() else locate(self.root)
        except OSError as error:  # of a name that is too long, and what else the system does not look up
            raise DataError(f"{self.root}: cannot be looked up ({error.strerror})") from error
        if place is None:
            raise DataError(f"{self.root}: no such folder or zip file of images")
        self._zip, inside = place
        self._folder = inside or self._zip.top_folder() or ""
        below = f"{self._folder}/" if self._folder else ""
        self._prefixes = (below,) if inside else tuple(dict.fromkeys(("", f"{self.root.stem}/", below)))
        if inside and not self._zip.names_below(self._folder):
            raise DataError(f"{self.root}: no such folder in the zip file")

    def __contains__(self, file_name: str) -> bool:
        return not escapes(file_name) and not self.missing([file_name])

    def names(self, suffixes: Collection[str] | None = None) -> list[str]:
        """Names of all files, those in subfolders too, sorted; hidden ones (`.DS_Store`, `._1.jpg`) are left out.

        `suffixes` to list are in lower case.
        """
        if self._zip is None:
            return list_files(self.root, suffixes)
        return visible(self._zip.names_below(self._folder), suffixes)

    def label_rows(self) -> Sequence[tuple[str, str]] | None:
        """Names and classes of all images, where the files of images say it."""
        return None

    def missing(self, file_names: Iterable[str]) -> list[str]:
        """Those of some names that are no files here; quick for a whole data set, as nothing is opened."""
        if self._zip is None:
            return missing_files(self.root, file_names)
        members = set(self._zip.names())
        return [name for name in file_names if not any(prefix + name in members for prefix in self._prefixes)]

    def empty(self, file_names: Iterable[str]) -> list[str]:
        """Those of some names, all of files here, that hold no byte, as a download that broke off leaves them."""
        if self._zip is None:
            return [name for name in file_names if not os.stat(self.root / name).st_size]
        sizes = self._zip.sizes()
        return [name for name in file_names if not any(sizes.get(prefix + name) for prefix in self._prefixes)]

    def missing_image(self, file_name: str) -> ImageError:
        """What to say of an image that is not there: of a link that leads nowhere, of a file with a similar name."""
        path = self.root / file_name
        if self._zip is None and path.is_symlink():
            fault = f"a link to {os.readlink(path)}, which cannot be reached"
            return ImageError(path, "missing-image", fault, "restore what it leads to")
        if self._near is None:
            try:
                self._near = NearNames(self.names())
            except DataError:  # what else is wrong in the folder is not this image's fault
                self._near = NearNames(())
        near = self._near.find(file_name)
        if near is None:
            return ImageError(path, "missing-image", "no such file", "restore it, or correct the name or the folder")
        fault = f"no such file, but there is {near[0]!r}; the names differ in {' and '.join(near[1])}"
        return ImageError(path, "missing-image", fault, "write the name as the file has it")

    def read(self, file_name: str, expected_size: Size | None = None) -> tv_tensors.Image:
        """Decodes one image, named relative to the root, to (3, H, W) uint8 RGB.

        Alpha is dropped; 16-bit values are scaled to 8 bits. The EXIF orientation is applied, unless `expected_size`
        shows that the annotations were made on the raster as it is stored: then they would not fit the turned image.
        """
        return self.read_with_turn(file_name, expected_size)[0]

    def read_with_turn(self, file_name: str, expected_size: Size | None = None) -> tuple[tv_tensors.Image, bool]:
        """As `read`; with it whether an orientation was passed over because the size is that of the stored raster."""
        path = self.root / file_name
        with self.open(file_name) as image:
            orientation, stored = orientation_of(image), (image.height, image.width)
            shown = shown_size(image, orientation)
            if expected_size not in (None, shown, stored):
                fault = f"{shown[1]} wide and {shown[0]} high, but annotated as {expected_size[1]} wide and "
                fix = "restore the image that was annotated, or correct the annotations"
                raise ImageError(path, "image-size", f"{fault}{expected_size[0]} high", fix)
            passed_over = expected_size not in (None, shown)
            try:
                pixels = decode(image, 1 if passed_over else orientation)
            except BrightnessError as error:
                fix = "save it with 8 or 16 bits per channel"
                raise ImageError(path, "unreadable-image", str(error), fix) from error
        return tv_tensors.Image(torch.from_numpy(pixels)), passed_over

    @contextmanager
    def open(self, file_name: str, formats: Sequence[str] = FORMATS) -> Iterator[ImageFile.ImageFile]:
        """Opens one image, its header alone read; what goes wrong while the caller decodes it is an `ImageError`."""
        path = self.root / file_name
        try:
            source, file_bytes = self._source(file_name)
            with pillows_limit.lifted(), Image.open(source, formats=tuple(formats)) as image:
                if fault := implausible_size(image.width, image.height, file_bytes):
                    raise ImageError(path, "unreadable-image", *fault.split("; "))
                yield image
        except ImageError:
            raise
        except UnidentifiedImageError as error:
            fault, fix = "not an image in a known format", f"use one of {', '.join(formats)}"
            with source.open("rb") if isinstance(source, Path) else source as file:
                file.seek(0)
                if "TIFF" in formats and file.read(4) in _TIFF:
                    fault = "a TIFF that is damaged, or has more channels or other numbers than can be read"
                    fix = "save it as RGB or gray with 8 or 16 bits per channel"
            raise ImageError(path, "unreadable-image", fault, fix) from error
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            raise ImageError(path, "unreadable-image", f"cannot be decoded ({error})", "restore the file") from error

    def content(self, file_name: str) -> bytes:
        """The bytes of one file."""
        source, _ = self._source(file_name)
        try:
            return source.read_bytes() if isinstance(source, Path) else source.getvalue()
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
            raise ImageError(self.root / file_name, "unreadable-image", fault, "restore the file") from error

    def _source(self, file_name: str) -> tuple[Path | io.BytesIO, int]:
        """What Pillow is to open, and its size in bytes."""
        path = self.root / file_name
        if escapes(file_name):
            fix = "name it relative to that folder"
            raise ImageError(path, "escaping-file-name", f"leads out of {self.root}", fix)
        if self._zip is not None:
            member = next((prefix + file_name for prefix in self._prefixes if prefix + file_name in self._zip), None)
            if member is None:
                raise self.missing_image(file_name)
            try:
                content = self._zip.read(member, MAX_BYTES)
            except DataError as error:
                fault, _, fix = str(error).removeprefix(f"{self._zip.path / member}: ").rpartition("; ")
                raise ImageError(path, "unreadable-image", fault, fix) from error
            return io.BytesIO(content), len(content)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError, UnicodeEncodeError):
            raise self.missing_image(file_name) from None
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
            raise ImageError(path, "unreadable-image", fault, "check the link or the name") from error
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise ImageError(path, "unreadable-image", "not a file", "put the image file there")
        return path, status.st_size
