"""Exports features: which process does which images, in which order, and when they are stored.

The images are cut into blocks of a fixed number, and the blocks are dealt out to the processes in turn. Within a block
a shard takes images until the next one would exceed its size. So the shards depend on the images and the settings
alone: several processes write the same store as one, and a process that was killed goes on after its last shard.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from swin_dense.devices import chosen_device
from swin_dense.errors import ConfigError, DataError, nearest, option
from swin_dense.export.boxes import read_boxes
from swin_dense.export.compute import (
    ClipReader,
    Extractor,
    Feature,
    ImageReader,
    LoadedImage,
    TargetSize,
    find_clips,
)
from swin_dense.export.manifest import FORMAT, begin, digest, done_ranges, finish, is_complete, range_name, write_shard
from swin_dense.export.models import ModelPart, as_feature_model, weights_hash
from swin_dense.export.store import FeatureStore
from swin_dense.images.finder import find_images, handed_over, received, worker_options
from swin_dense.isolation import left_as_it_is
from swin_dense.records import Progress, Size
from swin_dense.videos.clips import ClipSampling

MEBIBYTE = 2**20
SMALLEST_BLOCK, LARGEST_BLOCK, BLOCKS = 8, 256, 64
"""Least and most images of a block, and how many blocks there should be, so that processes get even shares."""
LOOK_AHEAD = 4
"""Batches' worth of images among which those of one size are gathered."""


def export_features(
    model: nn.Module | ModelPart,
    images: Sequence[Path | str] | Path | str,
    output: Path | str,
    *,
    size: Size | None = None,
    short_side: int | None = None,
    max_long_side: int | None = None,
    frames: int | None = None,
    stride: int | None = None,
    segments: bool | None = None,
    maps: bool = True,
    pool: bool = False,
    boxes: Path | str | None = None,
    dtype: str = "float32",
    batch_size: int = 4,
    shard_size: float = 256,
    device: str | None = None,
    num_workers: int = 0,
    on_error: str = "stop",
    rank: int | None = None,
    world_size: int | None = None,
    progress: Progress | None = None,
) -> FeatureStore:
    """Computes the features of images, or of the clips of videos, and stores them; continues an interrupted call.

    Images are resized by one of `size` or `short_side`, or keep their size. Several processes share the work when each
    is called with the same arguments, under torchrun or with its own `rank`. A backbone of videos is given clips, one
    after another from the beginning of each video to its end, or with `segments` one of the whole video; an item of the
    store is a clip, its path ends with the seconds in which it begins and ends (`dog.mp4#t=2.133,4.267`), and `seconds`
    holds the time of each of its frames.

    Args:
        model: A backbone, which is given images normalised as ImageNet's; a `ModelPart`; or a module of your own that
            maps uint8 RGB images (B, 3, H, W) to one (B, C, H_i, W_i) map for each of its `feature_specs`, and has
            `size_divisor` (it pads images right and bottom to a multiple of this many pixels) and `pyramid` (names of
            maps that share one space of features, as the levels of an FPN do). It is moved to the device and set to
            evaluation mode.
        images: Image files, folders, zip files, and text files that name an image per line; or videos, without zip
            files.
        output: Folder of the store.
        size: Height and width to resize to.
        short_side: Pixels of the shorter side to resize to, at unchanged aspect ratio.
        max_long_side: With `short_side`: most pixels of the longer side.
        frames: Of videos: frames of a clip; None is 32.
        stride: Likewise: from one of them to the next, in frames of the video; None is 2.
        segments: Likewise: one clip for the whole video, a frame of each of `frames` equal segments of it, as for
            Something-Something V2; None is clips one after another.
        maps: Store the maps.
        pool: Store the mean of each map over its image, as NAME.pool.
        boxes: JSON file of boxes whose 7x7 features are stored: from each map as NAME.roi, from a pyramid as roi.
        dtype: "float32", "float16" or "bfloat16".
        batch_size: Most images that are computed together; only images of one size are.
        shard_size: Most MiB of features in one shard file; a single image may exceed it.
        device: As in `torch.device`; None takes the best there is, of several CUDA devices this process's.
        num_workers: Processes that read images; 0 reads in this process.
        on_error: "stop" at an image that cannot be used, or "skip" it and list it in the manifest.
        rank: This process, from 0; None asks the environment (torchrun), or is the only one.
        world_size: Number of processes; likewise.
        progress: Wraps the images, to show how far it is.

    Returns:
        The store. While other processes are still at work it is not yet complete.

    Raises:
        ConfigError: An option is wrong, or `output` holds something else.
        DataError: There is no image, or one that cannot be used while `on_error` is "stop".

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from swin_dense.backbones import create_backbone
        >>> from swin_dense.export import export_features
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("red", "green", "blue"):
        ...     Image.new("RGB", (70, 50), name).save(folder / f"{name}.png")
        >>> backbone = create_backbone("swin_nano")  # load_weights(backbone, "file.pth") gives it weights
        >>> store = export_features(backbone, folder, folder / "features", maps=False, pool=True)
        >>> len(store), store.names
        (3, ('stage1.pool', 'stage2.pool', 'stage3.pool', 'stage4.pool'))
        >>> store[0]["stage4.pool"].shape
        torch.Size([256])
    """
    if on_error not in ("stop", "skip"):
        raise ConfigError(f'on_error: unknown "{on_error}"; {nearest(on_error, ("stop", "skip"))}')
    if batch_size < 1 or num_workers < 0 or not shard_size > 0:
        raise ConfigError("an export needs batch_size >= 1, num_workers >= 0 and shard_size > 0")
    target = TargetSize(size, short_side, max_long_side)
    rank, world_size = _share(rank, world_size)
    checked = as_feature_model(model)
    with left_as_it_is(checked):
        extractor = Extractor(checked, chosen_device(device), dtype, maps=maps, pool=pool)
        inputs = [Path(images)] if isinstance(images, (str, Path)) else [Path(one) for one in images]
        clips = _clips(extractor, frames, stride, segments, boxes)
        sources: Any = find_images(inputs) if clips is None else find_clips(inputs, clips)
        paths = [source.path for source in sources]
        wanted_boxes = None if boxes is None else read_boxes(Path(boxes), paths)
        if not (maps or pool or boxes):
            raise ConfigError("nothing to export: ask for maps, pooled vectors or features of boxes")
        origin = {"weights": weights_hash(checked), "version": version("swin-dense")}
        folder = Path(output)
        settings = {
            "format": FORMAT,
            "images": len(paths),
            "paths_sha256": digest(paths),
            "features": [[spec.name, spec.channels, spec.stride] for spec in extractor.specs],
            **asdict(target),
            **({} if clips is None else {"clips": asdict(clips)}),
            "size_divisor": extractor.size_divisor,
            "maps": maps,
            "pool": pool,
            "boxes_sha256": None if boxes is None else hashlib.sha256(Path(boxes).read_bytes()).hexdigest(),
            "dtype": dtype,
            "shard_size": shard_size,
            **origin,
        }
        begin(folder, settings)
        block = min(max(-(-len(paths) // BLOCKS), SMALLEST_BLOCK), LARGEST_BLOCK)
        left = [] if is_complete(folder) else _what_is_left(len(paths), block, done_ranges(folder), rank, world_size)
        reader = ImageReader(sources, target, wanted_boxes) if clips is None else ClipReader(sources, target, clips)
        loader = DataLoader(
            reader,
            sampler=left,
            batch_size=None,
            collate_fn=handed_over,
            **worker_options(num_workers),
        )
        new_shard = partial(_Shard, folder, extractor, origin, batch_size, shard_size * MEBIBYTE)
        loaded: Iterator[LoadedImage] = received(loader)
        _store_all(progress(loaded, len(left)) if progress else loaded, new_shard, block, skip=on_error == "skip")
    finish(folder, len(paths))
    return FeatureStore(folder)


def _clips(
    extractor: Extractor, frames: int | None, stride: int | None, segments: bool | None, boxes: Path | str | None
) -> ClipSampling | None:
    """How videos are cut into clips; None of a model of images."""
    if all(spec.temporal_stride is None for spec in extractor.specs):
        if (frames, stride, segments) != (None, None, None):
            raise ConfigError("frames, stride and segments are of clips of videos; this model takes images")
        return None
    if boxes is not None:
        raise ConfigError(f"{option('boxes', str(boxes))}: features of boxes are of images; this model takes videos")
    return ClipSampling(32 if frames is None else frames, 2 if stride is None else stride, bool(segments))


def _store_all(images: Iterable[LoadedImage], new_shard: Callable[[int], _Shard], block: int, *, skip: bool) -> None:
    """Puts images into shards and stores each shard that is full, or that ends with its block."""
    shard: _Shard | None = None
    for image in images:
        if image.error is not None and not skip:
            raise DataError(
                f"{image.error}\nWhat is exported so far is kept. Fix the image and start again to continue, or skip "
                f"such images ({option('on_error', 'skip')})"
            )
        if shard is not None and (shard.first // block != image.number // block or not shard.has_room(image)):
            shard.store()
            shard = None
        shard = shard or new_shard(image.number)
        shard.add(image)
    if shard is not None:
        shard.store()


class _Shard:
    """Gathers consecutive images until they are stored together."""

    def __init__(
        self,
        folder: Path,
        extractor: Extractor,
        origin: dict[str, str],
        batch_size: int,
        max_bytes: float,
        first: int,
    ) -> None:
        self.first, self.stop = first, first
        self._folder, self._extractor, self._origin = folder, extractor, origin
        self._batch_size, self._max_bytes, self._bytes = batch_size, max_bytes, 0
        self._waiting: list[LoadedImage] = []
        self._rows: list[dict[str, Any]] = []
        self._tensors: dict[str, Tensor] = {}

    def has_room(self, image: LoadedImage) -> bool:
        return self._bytes == 0 or self._bytes + self._extractor.bytes_of(image) <= self._max_bytes

    def add(self, image: LoadedImage) -> None:
        assert image.number == self.stop
        self.stop += 1
        self._bytes += self._extractor.bytes_of(image)
        if image.error is not None:
            self._rows.append({**self._describe(image), "error": image.error})
            return
        self._waiting.append(image)
        if len(self._waiting) == LOOK_AHEAD * self._batch_size:
            self._compute()

    def store(self) -> None:
        self._compute()
        name = range_name(self.first, self.stop)
        shard = f"shards/{name}.safetensors"
        rows = sorted(self._rows, key=lambda row: int(row["image"]))  # stable: an image's features keep their order
        write_shard(
            self._folder, name, self._tensors, [{**row, "shard": shard if "key" in row else None} for row in rows]
        )

    def _compute(self) -> None:
        """Computes the images that wait, in batches of one size, in the order in which each size first comes."""
        groups: dict[torch.Size, list[LoadedImage]] = {}
        for image in self._waiting:
            assert image.pixels is not None
            groups.setdefault(image.pixels.shape, []).append(image)
        for group in groups.values():
            for start in range(0, len(group), self._batch_size):
                batch = group[start : start + self._batch_size]
                for image, features in zip(batch, self._extractor(batch), strict=True):
                    self._keep(image, features)
        self._waiting = []

    def _keep(self, image: LoadedImage, features: Sequence[Feature]) -> None:
        for name, values, stride in features:
            key = f"{image.number:08d}.{name}"
            dtype = str(values.dtype).removeprefix("torch.")
            self._tensors[key] = values
            feature = {"stage": name, "shape": tuple(values.shape), "stride": stride, "dtype": dtype, "key": key}
            self._rows.append({**self._describe(image), **feature})

    def _describe(self, image: LoadedImage) -> dict[str, Any]:
        row: dict[str, Any] = {"image": image.number, "path": image.path, "sha256": image.sha256, **self._origin}
        if image.pixels is not None and image.original_size is not None:
            resized = image.resized_size
            row["original_size"], row["resized_size"] = image.original_size, resized
            row["scale"] = [new / old for new, old in zip(resized, image.original_size, strict=True)]
            row["padding"] = self._extractor.padding(resized)
        return row


def _what_is_left(images: int, block: int, done: dict[int, int], rank: int, world_size: int) -> list[int]:
    """The images of this process's blocks that no part holds yet, in order."""
    left: list[int] = []
    for start in range(rank * block, images, world_size * block):
        first, stop = start, min(start + block, images)
        while first < stop and first in done:
            first = done[first]
        left += range(first, stop)
    return left


def _share(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This process and the number of all."""
    if (rank is None) != (world_size is None):
        raise ConfigError("rank and world_size belong together")
    if rank is None or world_size is None:
        rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank {rank} of {world_size} processes: ranks go from 0 to {world_size - 1}")
    return rank, world_size
