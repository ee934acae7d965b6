"""The plain records that cross folder borders: one image, one batch, one image's detections.

Shapes: B images in a batch, N instances in an image, K classes, (H, W) pixels. Boxes are XYXY in float pixels, labels
are contiguous 0..K-1 (the data set keeps the map back to category ids), images stay uint8 RGB until the model
normalises them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node
from torchvision import tv_tensors

T = TypeVar("T")
Found = TypeVar("Found")

Size = tuple[int, int]
"""Height and width in pixels."""


def rescaled_size(size: Size, short_side: int, max_long_side: int) -> Size:
    """The largest (height, width) of unchanged aspect ratio within both limits, rounded half up as in mmdetection."""
    scale = min(max_long_side / max(size), short_side / min(size))
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


MAX_ENLARGED = 2**26
"""Most pixels of an image that is enlarged (8,192 x 8,192); a strip of 30,000 x 1 would become 24,000,000 x 800."""

IGNORE_INDEX = -1
"""In every label map: the pixel has no class, and counts neither in a loss nor in a score.

Negative, so that it can never be a class, however many there are, nor a value of a label file; a model that wants
another number (mmseg's heads: 255) gets it where its inputs are made.
"""

Rle = dict[str, Any]
"""A compressed COCO run-length mask: {"size": [H, W], "counts": bytes}."""


@dataclass(frozen=True)
class Instances:
    """The annotated objects of one image.

    Attributes:
        boxes: (N, 4) float32 `BoundingBoxes`, XYXY in pixels of the image they belong to.
        masks: (N, H, W) bool `Mask`; None where boxes alone are learnt from.
        labels: (N,) int64, contiguous 0..K-1.
        crowd: (N,) bool, COCO's `iscrowd`: regions to be ignored in training.
    """

    boxes: tv_tensors.BoundingBoxes
    masks: tv_tensors.Mask | None
    labels: Tensor
    crowd: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Sample:
    """One image, or clip of a video, with what is known about it. Torchvision's v2 transforms act on it as on a dict.

    Attributes:
        image: (3, H, W) uint8 RGB `Image`, or (T, 3, H, W) `Video`.
        image_id: The data set's own id.
        file_name: As the data set names it, for messages and result files.
        original_size: Height and width of the image on disk, before any transform.
        instances: The annotated objects; None where there are none to be learnt from.
        label_map: (H, W) int32 `Mask`, the class of every pixel, 0..K-1 or `IGNORE_INDEX`; None likewise. A training
            transform keeps it aligned with `image`; in evaluation it stays that of the image on disk.
        label: The class of the whole image, 0..K-1; None where it has none.
    """

    image: tv_tensors.Image | tv_tensors.Video
    image_id: int
    file_name: str
    original_size: Size
    instances: Instances | None = None
    label_map: tv_tensors.Mask | None = None
    label: int | None = None

    @property
    def size(self) -> Size:
        """Height and width of `image` now."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])


@dataclass(frozen=True)
class Batch:
    """Several samples, their images zero-padded right and bottom to one size.

    Attributes:
        images: (B, 3, H, W) uint8 RGB, or (B, T, 3, H, W) of clips of equal length.
        sizes: Height and width of each image inside the padding.
        original_sizes: Height and width of each image on disk.
        image_ids: The data set's own ids.
        file_names: As the data set names them.
        instances: One per image; None where there are none to be learnt from.
        label_maps: One (H, W) int32 map per image, unpadded; None likewise. In training each has the size of its image
            inside the padding, in evaluation that of its image on disk.
        labels: The class of each image, 0..K-1; None where images have none.
    """

    images: Tensor
    sizes: tuple[Size, ...]
    original_sizes: tuple[Size, ...]
    image_ids: tuple[int, ...]
    file_names: tuple[str, ...]
    instances: tuple[Instances, ...] | None = None
    label_maps: tuple[Tensor, ...] | None = None
    labels: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Moves images, boxes, labels and label maps; masks and crowd flags stay on the CPU, where they are read."""
        instances = self.instances and tuple(
            replace(
                one,
                boxes=tv_tensors.wrap(one.boxes.to(device, non_blocking=non_blocking), like=one.boxes),
                labels=one.labels.to(device, non_blocking=non_blocking),
            )
            for one in self.instances
        )
        label_maps = self.label_maps and tuple(one.to(device, non_blocking=non_blocking) for one in self.label_maps)
        images = self.images.to(device, non_blocking=non_blocking).contiguous()  # kernels differ by the order in memory
        return replace(self, images=images, instances=instances, label_maps=label_maps)

    def pin_memory(self) -> Batch:
        """Pins all tensors for asynchronous copies to the device: a copy of any other would wait for it."""
        instances = self.instances and tuple(
            replace(
                one,
                boxes=tv_tensors.wrap(one.boxes.pin_memory(), like=one.boxes),
                labels=one.labels.pin_memory(),
                masks=one.masks if one.masks is None else tv_tensors.wrap(one.masks.pin_memory(), like=one.masks),
            )
            for one in self.instances
        )
        label_maps = self.label_maps and tuple(one.pin_memory() for one in self.label_maps)
        return replace(self, images=self.images.pin_memory(), instances=instances, label_maps=label_maps)


@dataclass(frozen=True)
class Detections:
    """What a detector found in one image, in pixels of the image on disk, best score first.

    Attributes:
        boxes: (N, 4) float32 XYXY.
        scores: (N,) float32 in 0..1.
        labels: (N,) int64, contiguous 0..K-1.
        masks: N compressed RLE masks of the image's original size; None for a box-only detector.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: list[Rle] | None = None

    def to(self, device: torch.device | str) -> Detections:
        """The same on a device; Lightning collects predictions with it."""
        return replace(self, boxes=self.boxes.to(device), scores=self.scores.to(device), labels=self.labels.to(device))

    def __len__(self) -> int:
        return len(self.scores)


def without_negative_sizes(boxes: Tensor) -> Tensor:
    """Boxes (N, 4) XYXY as they are, but empty where a width or height is negative: there is nothing in such a box.

    CenterNet and Sparse R-CNN may find one, above all before they have learnt.
    """
    return torch.cat([boxes[:, :2], torch.maximum(boxes[:, :2], boxes[:, 2:])], dim=1)


@dataclass(frozen=True)
class Segmentation:
    """The class of every pixel of one image, in pixels of the image on disk.

    Attributes:
        label_map: (H, W) int32, contiguous 0..K-1.
        probabilities: (K, H, W) in 0..1, adding up to 1 but for rounding; None unless they were asked for.
    """

    label_map: Tensor
    probabilities: Tensor | None = None

    def to(self, device: torch.device | str) -> Segmentation:
        """The same on a device; Lightning collects predictions with it."""
        return Segmentation(
            self.label_map.to(device), None if self.probabilities is None else self.probabilities.to(device)
        )


@dataclass(frozen=True)
class Classification:
    """What a classifier says of one image or video.

    Attributes:
        probabilities: (K,) float32 in 0..1, adding up to 1 but for rounding.
        seconds: (S, K), the same for every second of a video file, where that was asked for.
    """

    probabilities: Tensor
    seconds: Tensor | None = None

    def to(self, device: torch.device | str) -> Classification:
        """The same on a device; Lightning collects predictions with it."""
        return Classification(self.probabilities.to(device), None if self.seconds is None else self.seconds.to(device))


def collate(samples: Sequence[Sample], size_divisor: int = 32) -> Batch:
    """A batch of images padded right and bottom with zeros to one size, a multiple of `size_divisor`.

    Either all samples have instances or none has; likewise label maps and labels. Boxes, masks and label maps keep the
    size of their own image. The official recipe pads after it normalises, so the model must set everything beyond
    `sizes` to zero again once it has normalised.
    """
    assert samples, "a batch needs a sample"
    instances = tuple(sample.instances for sample in samples if sample.instances is not None)
    assert len(instances) in (0, len(samples)), "either every sample of a batch has instances or none has"
    label_maps = tuple(sample.label_map for sample in samples if sample.label_map is not None)
    assert len(label_maps) in (0, len(samples)), "either every sample of a batch has a label map or none has"
    labels = tuple(sample.label for sample in samples if sample.label is not None)
    assert len(labels) in (0, len(samples)), "either every sample of a batch has a label or none has"
    height, width = (
        -(-max(side) // size_divisor) * size_divisor for side in zip(*(sample.size for sample in samples), strict=True)
    )
    first = samples[0].image
    images = torch.zeros((len(samples), *first.shape[:-2], height, width), dtype=torch.uint8)
    if first.ndim == 3 and first.stride(0) == 1:  # pixel by pixel, as files are decoded: planes would be copied slowly
        images = torch.zeros((len(samples), height, width, len(first)), dtype=torch.uint8).movedim(-1, 1)
    for image, sample in zip(images, samples, strict=True):
        image[..., : sample.size[0], : sample.size[1]] = sample.image
    return Batch(
        images=images,
        sizes=tuple(sample.size for sample in samples),
        original_sizes=tuple(sample.original_size for sample in samples),
        image_ids=tuple(sample.image_id for sample in samples),
        file_names=tuple(sample.file_name for sample in samples),
        instances=tuple(map(_compact_instances, instances)) or None,
        label_maps=tuple(map(_compact, label_maps)) or None,
        labels=labels or None,
    )


def _compact(cut: tv_tensors.Mask) -> tv_tensors.Mask:
    """The same without what it was cut out of, all of which a loader would hand over."""
    return cut if cut.untyped_storage().nbytes() == cut.nbytes else cut.clone()


def _compact_instances(instances: Instances) -> Instances:
    masks = None if instances.masks is None else _compact(instances.masks)
    return instances if masks is instances.masks else replace(instances, masks=masks)


def _register(record: type, *transformed: str) -> None:
    """Lets torchvision's v2 transforms, and torch's pytrees, see the parts of a record that they may transform."""
    kept = [one.name for one in fields(record) if one.name not in transformed]

    def flatten(value: Any) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(value, name) for name in transformed], tuple(getattr(value, name) for name in kept)

    def unflatten(parts: Iterable[Any], context: tuple[Any, ...]) -> Any:
        return record(**dict(zip(transformed, parts, strict=True)), **dict(zip(kept, context, strict=True)))

    register_pytree_node(record, flatten, unflatten, serialized_type_name=f"swin_dense.{record.__name__}")


_register(Instances, "boxes", "masks", "labels", "crowd")
_register(Sample, "image", "instances", "label_map")
_register(Batch, "images", "instances", "label_maps")
_register(Detections, "boxes", "scores", "labels")
_register(Segmentation, "label_map", "probabilities")
_register(Classification, "probabilities")


@dataclass(frozen=True)
class Ragged:
    """Rows of different length in two flat tensors, one after another.

    A million small Python objects cost memory in every worker: touching one writes its reference count, and the page it
    lies on is copied. Two tensors cost it once: forked workers share their pages, and under `spawn` PyTorch hands them
    over as shared memory.

    Attributes:
        values: (V,) all rows joined.
        offsets: (R + 1,) int64; row r is `values[offsets[r]:offsets[r + 1]]`.
    """

    values: Tensor
    offsets: Tensor

    @classmethod
    def from_lengths(cls, values: npt.NDArray[Any], lengths: Iterable[int]) -> Ragged:
        """Cuts joined values, (V,), into rows of lengths that sum up to V."""
        offsets = np.concatenate([[0], np.cumsum(np.fromiter(lengths, dtype=np.int64))])
        assert offsets[-1] == len(values)
        return cls(torch.from_numpy(values), torch.from_numpy(offsets.astype(np.int64)))

    @classmethod
    def from_bytes(cls, rows: Iterable[bytes]) -> Ragged:
        """Joins byte strings to rows of uint8."""
        rows = list(rows)
        joined = np.frombuffer(b"".join(rows), dtype=np.uint8).copy()
        return cls.from_lengths(joined, map(len, rows))

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Ragged:
        """Joins texts, such as names of files; whatever their bytes are, `text` gives them back."""
        return cls.from_bytes(text.encode("utf-8", "surrogateescape") for text in texts)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        """One row, a view."""
        start, stop = self.offsets[row : row + 2].tolist()
        return self.values[start:stop].numpy()

    def text(self, row: int) -> str:
        """One row of `from_texts`."""
        return self[row].tobytes().decode("utf-8", "surrogateescape")

    def texts(self) -> list[str]:
        """All rows as `text` gives them: quicker than one by one."""
        return [one.decode("utf-8", "surrogateescape") for one in self.byte_strings()]

    def byte_strings(self) -> list[bytes]:
        """All rows of `from_bytes`, as Python objects: quicker than one by one."""
        joined, offsets = self.values.numpy().tobytes(), self.offsets.tolist()
        return [joined[start:stop] for start, stop in zip(offsets[:-1], offsets[1:], strict=True)]


Progress = Callable[[Iterable[Any], int], Iterable[Any]]
"""Passes the items of a check on while it shows how many of a total have gone by."""


def in_threads(check: Callable[[T], Found], items: Sequence[T], progress: Progress | None) -> Iterator[tuple[T, Found]]:
    """Each item of a check with what was found in it, several of which are looked at at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(check, items)
        yield from zip(items, progress(found, len(items)) if progress else found, strict=True)
