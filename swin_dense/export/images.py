"""Which images are exported, and how each is read: files, folders, lists of files, zip files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from swin_dense.data.transforms import rescaled_size, resize
from swin_dense.errors import ConfigError, DataError
from swin_dense.export.boxes import check_inside
from swin_dense.images.archive import ZipIndex, locate
from swin_dense.images.folder import SUFFIXES
from swin_dense.images.store import MAX_BYTES, ImageStore
from swin_dense.records import Sample, Size

LISTS = (".txt", ".lst")
"""Suffixes of text files that name an image per line."""


@dataclass(frozen=True)
class ImageSource:
    """Where an image lies.

    Attributes:
        root: A folder or a zip file.
        name: Of the image file below it.
    """

    root: Path
    name: str

    @property
    def path(self) -> str:
        """Root and name; bytes that are no UTF-8 are written as backslash, x, and two digits."""
        return str(self.root / self.name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def find_images(inputs: Sequence[Path]) -> list[ImageSource]:
    """Lists images; nothing is decoded yet.

    Args:
        inputs: Image files; folders and zip files, which are searched to the bottom, in the order of names, hidden
            files left out and links to folders not followed; text files (.txt, .lst) with the path of one image file
            per line, relative to the folder of the text file. What lies in a zip file may be named as if the zip file
            were a folder.

    Returns:
        The images in the order given. A path that is named twice counts once, at its first place; a link and what it
        leads to are two images.

    Raises:
        DataError: A path does not exist, or holds no image.
    """
    found: dict[str, ImageSource] = {}
    if not inputs:
        raise DataError("no image is named")
    for path in map(Path, inputs):
        sources = list(_sources(path))
        if not sources:
            raise DataError(f"{path}: no image in it ({', '.join(SUFFIXES)})")
        for source in sources:
            found.setdefault(source.path, source)
    return list(found.values())


def _sources(path: Path) -> Iterator[ImageSource]:
    place = locate(path)
    if place is not None:
        index, inside = place
        folder = f"{inside}/" if inside else ""
        names = [inside] if inside in index else [folder + name for name in index.names_below(folder)]
        yield from (ImageSource(index.path, name) for name in names if name == inside or _is_image(name))
    elif path.is_dir():
        yield from (ImageSource(path, name) for name in ImageStore(path).names() if _is_image(name))
    elif not path.is_file():
        raise DataError(f"{path}: no such image, folder, list or zip file")
    else:
        files = _listed(path) if path.suffix.lower() in LISTS else [path]
        yield from (ImageSource(file.parent, file.name) for file in files)


def _listed(path: Path) -> Iterator[Path]:
    for line in path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines():
        if line.strip():
            yield path.parent / os.fsdecode(line)


def _is_image(name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and Path(name).suffix.lower() in SUFFIXES


@dataclass(frozen=True)
class TargetSize:
    """The size that images are resized to; with nothing set they stay as they are.

    Attributes:
        size: Height and width, whatever the aspect ratio was.
        short_side: Pixels of the shorter side, at unchanged aspect ratio.
        max_long_side: Most pixels of the longer side; it wins where both cannot be met. None sets no limit.
    """

    size: Size | None = None
    short_side: int | None = None
    max_long_side: int | None = None

    def __post_init__(self) -> None:
        """Checks the sizes."""
        if self.size is not None and self.short_side is not None:
            raise ConfigError("size and short_side exclude each other")
        if self.max_long_side is not None and self.short_side is None:
            raise ConfigError("max_long_side needs a short_side")
        sides = (*(self.size or ()), *(side for side in (self.short_side, self.max_long_side) if side is not None))
        if any(side < 1 for side in sides):
            raise ConfigError(f"images cannot be resized to {sides}: sides are at least 1 pixel")

    def of(self, size: Size) -> Size:
        """The size that an image of this size gets.

        Args:
            size: Height and width of the image on disk.

        Returns:
            Height and width.
        """
        if self.short_side is None:
            return self.size or size
        unlimited = self.short_side * -(-max(size) // min(size))
        return rescaled_size(size, self.short_side, self.max_long_side or unlimited)


@dataclass(frozen=True)
class LoadedImage:
    """An image ready for the model, or the reason why there is none.

    Attributes:
        number: Place in the list of images.
        path: As the manifest names it.
        sha256: Of the image file.
        original_size: Height and width of the image on disk, turned as its EXIF orientation says.
        pixels: (3, H, W) uint8 RGB, resized.
        boxes: (N, 4) float32 XYXY in pixels of the original image; None where none are asked for.
        error: What is wrong; then the image has no pixels.
    """

    number: int
    path: str
    sha256: str | None = None
    original_size: Size | None = None
    pixels: Tensor | None = None
    boxes: Tensor | None = None
    error: str | None = None


class ImageReader(Dataset[LoadedImage]):
    """Reads, hashes, decodes and resizes images; may be used in worker processes."""

    def __init__(
        self, sources: Sequence[ImageSource], target: TargetSize, boxes: Mapping[int, Tensor] | None = None
    ) -> None:
        """Prepares to read.

        Args:
            sources: The images.
            target: What they are resized to.
            boxes: (N, 4) boxes by the number of the image, for those that have any; None if no image has.
        """
        self.sources, self.target, self.boxes = sources, target, boxes
        self._opened: dict[Path, tuple[ImageStore, ZipIndex | None]] = {}

    def __len__(self) -> int:
        """Number of images."""
        return len(self.sources)

    def __getitem__(self, number: int) -> LoadedImage:
        """Reads one image; whatever is wrong with it is told in the record."""
        source = self.sources[number]
        try:
            return self._read(number, source)
        except (DataError, OSError) as error:
            return LoadedImage(number, source.path, error=str(error))

    def _read(self, number: int, source: ImageSource) -> LoadedImage:
        if source.root not in self._opened:
            index = ZipIndex.open(source.root) if source.root.is_file() else None
            self._opened[source.root] = ImageStore(source.root), index
        store, index = self._opened[source.root]
        image = store.read(source.name)  # first, because it refuses pipes and names that lead elsewhere
        content = index.read(source.name, MAX_BYTES) if index else (source.root / source.name).read_bytes()
        sample = Sample(image, number, source.path, (int(image.shape[-2]), int(image.shape[-1])))
        boxes = None if self.boxes is None else self.boxes.get(number, torch.empty(0, 4))
        if boxes is not None:
            check_inside(boxes, sample.original_size, source.path)
        return LoadedImage(
            number,
            source.path,
            hashlib.sha256(content).hexdigest(),
            sample.original_size,
            resize(sample, self.target.of(sample.size)).image.as_subclass(Tensor),
            boxes,
        )
