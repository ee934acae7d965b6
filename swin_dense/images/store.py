"""Image files, from a folder or straight from a zip file, as uint8 RGB tensors.

Whatever the file holds (grayscale, palette, CMYK, alpha, 16 bit, a turned camera), what comes out is (3, H, W) uint8
RGB as the annotations see it, or an error that names the file.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torchvision import tv_tensors

from swin_dense.errors import DataError
from swin_dense.images.files import Archive, NearNames, escapes, list_files, locate, missing_files, visible
from swin_dense.images.pixels import (
    FORMATS,
    BrightnessError,
    decode,
    implausible_size,
    orientation_of,
    pillows_limit,
    shown_size,
)
from swin_dense.records import Size

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
        """Names the file, the fault and the fix."""
        super().__init__(f"{path}: {fault}; {fix}")
        self.kind, self.fault, self.fix = kind, fault, fix


class ImageStore:
    """The images of a data set: a folder, a zip file that is read without being unpacked, or a folder in a zip file.

    In a zip file an image is found under its own name, under a folder named like the zip file (`train2017.zip` holds
    `train2017/000000000009.jpg`), or under the one folder that everything lies in. A store may be used in several
    threads, and in forked and spawned workers alike.
    """

    def __init__(self, root: Path) -> None:
        """Opens a folder, a zip file, or a folder inside one: `ADEChallengeData2016.zip/images/training`."""
        self.root = Path(root)
        self._zip: Archive | None = None
        self._folder = ""
        self._near: NearNames | None = None
        if self.root.is_dir():
            return
        place = (Archive(self.root), "") if self.root.is_file() else locate(self.root)
        if place is None:
            raise DataError(f"{self.root}: no such folder or zip file of images")
        self._zip, inside = place
        self._folder = inside or self._zip.top_folder() or ""
        below = f"{self._folder}/" if self._folder else ""
        self._prefixes = (below,) if inside else tuple(dict.fromkeys(("", f"{self.root.stem}/", below)))
        if inside and not self._zip.names_below(self._folder):
            raise DataError(f"{self.root}: no such folder in the zip file")

    def __contains__(self, file_name: str) -> bool:
        """Whether there is a file of this name."""
        return not escapes(file_name) and not self.missing([file_name])

    def names(self, suffixes: Collection[str] | None = None) -> list[str]:
        """Names of all files, those in subfolders too, sorted; hidden ones (`.DS_Store`, `._1.jpg`) are left out.

        `suffixes` to list are in lower case.
        """
        if self._zip is None:
            return list_files(self.root, suffixes)
        return visible(self._zip.names_below(self._folder), suffixes)

    def missing(self, file_names: Iterable[str]) -> list[str]:
        """Those of some names that are no files here; quick for a whole data set, as nothing is opened."""
        if self._zip is None:
            return missing_files(self.root, file_names)
        members = set(self._zip.names())
        return [name for name in file_names if not any(prefix + name in members for prefix in self._prefixes)]

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
            fix = f"use one of {', '.join(formats)}"
            raise ImageError(path, "unreadable-image", "not an image in a known format", fix) from error
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
