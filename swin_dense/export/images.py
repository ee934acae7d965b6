"""How each exported image is read, and at which size."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as kernels

from swin_dense.errors import ConfigError, DataError
from swin_dense.export.boxes import check_inside
from swin_dense.images.finder import ImageSource
from swin_dense.images.store import ImageStore
from swin_dense.records import MAX_ENLARGED, Size, rescaled_size


@dataclass(frozen=True)
class TargetSize:
    """The size that images are resized to; with nothing set they stay as they are.

    Attributes:
        size: Height and width, whatever the aspect ratio was.
        short_side: Pixels of the shorter side, at unchanged aspect ratio.
        max_long_side: Most pixels of the longer side; it wins where both cannot be met.
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
        if not all(1 <= side <= MAX_ENLARGED for side in sides):
            raise ConfigError(f"images cannot be resized to {sides!r:.100}: sides are 1 to {MAX_ENLARGED} pixels")

    def of(self, size: Size) -> Size:
        """Height and width that an image of this size gets; an error where it would exceed `MAX_ENLARGED` pixels."""
        height, width = self.size or size
        if self.short_side is not None:
            unlimited = self.short_side * -(-max(size) // min(size))
            height, width = rescaled_size(size, self.short_side, self.max_long_side or unlimited)
        if height * width > max(MAX_ENLARGED, size[0] * size[1]):
            raise DataError(
                f"{size[1]} wide and {size[0]} high, it would be enlarged to {width} x {height} pixels, more than the "
                f"{MAX_ENLARGED} allowed; cut it, choose a smaller size, or limit the longer side"
            )
        return height, width


@dataclass(frozen=True)
class LoadedImage:
    """An image ready for the model, or the reason why there is none.

    Attributes:
        number: Index in the list of images.
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
        """Prepares to read; boxes (N, 4) are by the index of the image, None if no image has any."""
        self.sources, self.target, self.boxes = sources, target, boxes
        self._stores: dict[Path, ImageStore] = {}

    def __len__(self) -> int:
        """Number of images."""
        return len(self.sources)

    def __getitem__(self, number: int) -> LoadedImage:
        """Reads one image; whatever is wrong with it is said in the record."""
        source = self.sources[number]
        try:
            return self._read(number, source)
        except (DataError, OSError) as error:
            return LoadedImage(number, source.path, error=str(error))

    def _read(self, number: int, source: ImageSource) -> LoadedImage:
        if source.root not in self._stores:
            self._stores[source.root] = ImageStore(source.root)
        store = self._stores[source.root]
        image, content = store.read(source.name).as_subclass(Tensor), store.content(source.name)
        size = (image.shape[1], image.shape[2])
        boxes = None if self.boxes is None else self.boxes.get(number, torch.empty(0, 4))
        if boxes is not None:
            check_inside(boxes, size, source.path)
        try:
            target = self.target.of(size)
        except DataError as error:
            raise DataError(f"{source.path}: {error}") from error
        if target != size:  # as for tests: bilinear, without antialiasing
            image = kernels.resize(image, list(target), antialias=False)
        return LoadedImage(number, source.path, hashlib.sha256(content).hexdigest(), size, image, boxes)
