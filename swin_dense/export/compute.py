"""From files to the tensors that are stored: how each image or clip is read, at which size, what the model makes of it.

Only images of exactly one size are computed together. To pad a smaller image would change its features: the zeros of
the padding become tokens that take part in attention.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as kernels

from swin_dense.backbones import FeatureSpec
from swin_dense.errors import ConfigError, DataError
from swin_dense.export.boxes import CELLS, check_inside, pool_map, pool_pyramid
from swin_dense.files import sha256_of
from swin_dense.records import MAX_ENLARGED, Size, rescaled_size
from swin_dense.videos.clips import ClipSampling
from swin_dense.videos.finder import find_videos
from swin_dense.videos.reader import VideoError, VideoFile


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
    """An image or a clip ready for the model, or the reason why there is none.

    Attributes:
        number: Index in the list of images.
        path: As the manifest names it.
        sha256: Of the image file.
        original_size: Height and width of the image on disk, turned as its EXIF orientation says; of a clip the number
            of frames that it spans before them.
        pixels: (3, H, W) uint8 RGB, resized; (T, 3, H, W) of a clip.
        boxes: (N, 4) float32 XYXY in pixels of the original image; None where none are asked for.
        seconds: (T,) float32, when the frames of a clip are shown, from the first frame of the video; None of an image.
        error: What is wrong; then the image has no pixels.
    """

    number: int
    path: str
    sha256: str | None = None
    original_size: tuple[int, ...] | None = None
    pixels: Tensor | None = None
    boxes: Tensor | None = None
    seconds: Tensor | None = None
    error: str | None = None

    @property
    def resized_size(self) -> tuple[int, ...]:
        """Height and width of the pixels, after the number of frames where there are any."""
        assert self.pixels is not None
        return (*self.pixels.shape[:-3], self.pixels.shape[-2], self.pixels.shape[-1])


class ImageReader(Dataset[LoadedImage]):
    """Reads, hashes, decodes and resizes images; may be used in worker processes."""

    def __init__(self, sources: Sequence[Any], target: TargetSize, boxes: Mapping[int, Tensor] | None = None) -> None:
        """Prepares to read each `ImageSource`; boxes (N, 4) are by the index of the image, None if no image has any."""
        self.sources, self.target, self.boxes = sources, target, boxes

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, number: int) -> LoadedImage:
        """Reads one image; whatever is wrong with it is said in the record."""
        source = self.sources[number]
        try:
            return self._read(number, source)
        except (DataError, OSError) as error:
            return LoadedImage(number, source.path, error=str(error))

    def _read(self, number: int, source: Any) -> LoadedImage:
        image, content = source.store.read(source.name).as_subclass(Tensor), source.store.content(source.name)
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


class ClipSource(NamedTuple):
    """One clip of a video file, or a file that has none."""

    file: Path
    path: str  # with the seconds in which it begins and ends: "dog.mp4#t=2.133,4.267" (W3C Media Fragments)
    number: int  # of the clip in the video
    error: str | None = None


def find_clips(inputs: Sequence[Path], sampling: ClipSampling) -> list[ClipSource]:
    """Lists the clips of videos, one after another in each; reads the packets of every file, and decodes nothing.

    A video that cannot be opened is listed with its error.
    """
    sources = []
    for file in find_videos(inputs):
        try:
            video = VideoFile(file)
        except VideoError as error:
            sources.append(ClipSource(file, str(file), 0, str(error)))
            continue
        for number, indices in enumerate(sampling.covering(len(video)).tolist()):
            end = indices[-1] + (1 if sampling.segments else sampling.stride)
            stop = video.duration if end >= len(video) else float(video.times[end])
            begin = float(video.times[indices[0]])
            sources.append(ClipSource(file, f"{file}#t={begin:.3f},{stop:.3f}", number))
    return sources


class ClipReader(ImageReader):
    """Reads, hashes, decodes and resizes clips; may be used in worker processes."""

    def __init__(self, sources: Sequence[ClipSource], target: TargetSize, sampling: ClipSampling) -> None:
        super().__init__(sources, target)
        self.sampling = sampling

    def _read(self, number: int, source: Any) -> LoadedImage:
        if source.error is not None:
            raise DataError(source.error)
        video = VideoFile(source.file)
        indices = self.sampling.covering(len(video))[source.number]
        try:
            size = self.target.of(video.size)
        except DataError as error:
            raise DataError(f"{source.path}: {error}") from error
        pixels: Tensor = video.read(indices, size=size).as_subclass(Tensor)
        spanned = len(video) if self.sampling.segments else self.sampling.length
        seconds = torch.from_numpy(video.times[indices]).float()
        return LoadedImage(number, source.path, _digest(source.file), (spanned, *video.size), pixels, seconds=seconds)


_digest = lru_cache(maxsize=16)(sha256_of)  # the clips of a file are read one after another


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""What features may be stored as; they are computed in float32."""


class Feature(NamedTuple):
    """One tensor to be stored.

    Attributes:
        name: "stage1", "stage1.pool", "stage1.roi", "roi" (of the pyramid), "boxes" or "seconds".
        values: On the CPU.
        stride: Pixels of the resized image per cell, for each axis of the grid, frames before them; empty where there
            is no grid.
    """

    name: str
    values: Tensor
    stride: tuple[int, ...]


class Extractor:
    """A model of `as_feature_model`, and the choice of what is kept of its maps."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: str, *, maps: bool, pool: bool) -> None:
        """Moves the model to the device and sets it to evaluation mode; `dtype` is a key of `DTYPES`."""
        if dtype not in DTYPES:
            raise ConfigError(f'dtype: unknown "{dtype}"; valid: {", ".join(DTYPES)}')
        moved: Any = model.to(device).eval()
        self.model = moved
        self.specs: tuple[FeatureSpec, ...] = tuple(moved.feature_specs)
        self.size_divisor: int = moved.size_divisor
        self.device, self.dtype = device, DTYPES[dtype]
        self.maps, self.pool = maps, pool

    def padding(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Rows below and columns right of an image of some height and width that the model adds; frames never."""
        *frames, height, width = size
        return (*(0 for _ in frames), -height % self.size_divisor, -width % self.size_divisor)

    def bytes_of(self, image: LoadedImage) -> int:
        """Bytes that the features of an image will take, known before they are computed; 0 for an error."""
        if image.pixels is None:
            return 0
        boxes = 0 if image.boxes is None else len(image.boxes)
        values, pyramid = 0, 0
        for spec in self.specs:
            cells = math.prod(self._grid(spec, image.resized_size))
            values += self.maps * spec.channels * cells + self.pool * spec.channels
            if spec.name in self.model.pyramid:
                pyramid = spec.channels
            else:
                values += boxes * spec.channels * CELLS**2
        seconds = 0 if image.seconds is None else len(image.seconds)
        return (values + boxes * pyramid * CELLS**2) * self.dtype.itemsize + boxes * 16 + seconds * 4

    def __call__(self, images: Sequence[LoadedImage]) -> list[list[Feature]]:
        """Computes what is kept of images of one size, none of them an error."""
        batch = torch.stack([image.pixels for image in images if image.pixels is not None])
        with torch.inference_mode():
            outputs = self.model(batch.to(self.device))
            for spec, output in zip(self.specs, outputs, strict=True):
                promised = (len(images), spec.channels, *self._grid(spec, images[0].resized_size))
                if tuple(output.shape) != promised:
                    raise ConfigError(f"{spec.name} has shape {tuple(output.shape)}; feature_specs promises {promised}")
            return [
                [self._rounded(feature, image) for feature in self._features(image, [output[i] for output in outputs])]
                for i, image in enumerate(images)
            ]

    def _grid(self, spec: FeatureSpec, size: tuple[int, ...]) -> tuple[int, ...]:
        """Cells of a map, those of the padding too."""
        padded = (side + added for side, added in zip(size, self.padding(size), strict=True))
        return tuple(-(-side // stride) for side, stride in zip(padded, _strides(spec), strict=True))

    def _features(self, image: LoadedImage, maps: Sequence[Tensor]) -> Iterator[Feature]:
        assert image.pixels is not None and image.original_size is not None
        size = image.resized_size
        for spec, values in zip(self.specs, maps, strict=True):
            if self.maps:
                yield Feature(spec.name, values, _strides(spec))
            if self.pool:
                cells = (-(-side // stride) for side, stride in zip(size, _strides(spec), strict=True))
                inside = (slice(None), *(slice(0, count) for count in cells))
                mean = values[inside].flatten(start_dim=1).mean(dim=1, dtype=torch.float32)
                yield Feature(f"{spec.name}.pool", mean, ())
        if image.seconds is not None:
            yield Feature("seconds", image.seconds, ())
        if image.boxes is None:
            return
        scale = [size[1] / image.original_size[1], size[0] / image.original_size[0]] * 2
        boxes = (image.boxes * image.boxes.new_tensor(scale)).to(self.device)
        levels = []
        for spec, values in zip(self.specs, maps, strict=True):
            if spec.name in self.model.pyramid:
                levels.append((values, spec.stride))
            else:
                yield Feature(f"{spec.name}.roi", pool_map(values, boxes, spec.stride), ())
        if levels:
            yield Feature("roi", pool_pyramid(levels, boxes), ())
        yield Feature("boxes", image.boxes, ())

    def _rounded(self, feature: Feature, image: LoadedImage) -> Feature:
        if feature.name in ("boxes", "seconds"):
            return feature
        rounded = feature.values.to(self.dtype)
        if not bool(rounded.isfinite().all()):
            if not bool(feature.values.isfinite().all()):
                raise DataError(
                    f"{image.path}: {feature.name} holds NaN or infinity; the weights or the model are broken"
                )
            raise DataError(f"{image.path}: {feature.name} is too large for float16; store bfloat16 or float32")
        # A copy of its own: safetensors refuses tensors that share the memory of a batch.
        return feature._replace(values=rounded.cpu().clone(memory_format=torch.contiguous_format))


def _strides(spec: FeatureSpec) -> tuple[int, ...]:
    """Pixels per cell of each axis of a map, frames before them."""
    spatial = (spec.stride, spec.stride)
    return spatial if spec.temporal_stride is None else (spec.temporal_stride, *spatial)
