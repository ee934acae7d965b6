"""Geometric transforms of samples: a transform is a callable Sample -> Sample.

They are thin records around torchvision's v2 kernels, so they compose with torchvision's own containers (`Compose`,
`RandomChoice`, ...). Every random decision is drawn from torch's global CPU generator and from nothing else; who seeds
that generator (see `seeding`) decides what a sample looks like.

Images are resized bilinearly *without* antialiasing, as OpenCV does it, because the published detection weights were
trained and scored on such images: the result is within one grey level of `cv2.resize` at every scale. Antialiasing
gives the same pixels when an image grows, as every COCO image does at the usual test size of 800, but differs by up to
143 grey levels (3.1 on average) when COCO images shrink to a short side of 256. Masks are resized by nearest neighbour,
with OpenCV's choice of the neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import Compose, InterpolationMode, RandomChoice
from torchvision.transforms.v2 import functional as kernels

from swin_dense.errors import ConfigError, DataError
from swin_dense.records import MAX_ENLARGED, Instances, Sample, Size, rescaled_size

Transform = Callable[[Sample], Sample]
"""What training and test transforms are; `torchvision.transforms.v2.Compose` chains them."""


def resize(sample: Sample, size: Size) -> Sample:
    """Resizes the image (bilinear, no antialiasing), its boxes, its masks and its label map (nearest).

    An instance stays even if its mask is so thin that no pixel of it is left.
    """
    if size == sample.size:
        return sample
    if size[0] * size[1] > max(MAX_ENLARGED, sample.size[0] * sample.size[1]):
        (height, width), (new_height, new_width) = sample.size, size
        raise DataError(
            f"{sample.file_name}: {width} x {height} pixels would be enlarged to {new_width} x {new_height}, more than "
            f"{MAX_ENLARGED} pixels; limit the long side, or leave the image out"
        )
    target = list(size)
    image = kernels.resize(sample.image, target, interpolation=InterpolationMode.BILINEAR, antialias=False)
    sample = replace(sample, image=image)
    if (label_map := sample.label_map) is not None:
        sample = replace(sample, label_map=_resize_masks(label_map, size))
    if (instances := sample.instances) is None:
        return sample
    boxes = kernels.resize(instances.boxes, target)
    masks = None if instances.masks is None else _resize_masks(instances.masks, size)
    return replace(sample, instances=replace(instances, boxes=boxes, masks=masks))


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Cuts a window out of image and label map; boxes are clipped to it, not shrunk to what is left of the mask.

    An instance is dropped as a whole (box, mask, label, crowd flag) when its box has no area inside the window, or when
    none of its mask's pixels is inside: a box around nothing visible is no training target. Without masks, boxes tell.
    """
    window = (top, left, height, width)
    label_map = None if sample.label_map is None else kernels.crop(sample.label_map, *window)
    sample = replace(sample, image=kernels.crop(sample.image, *window), label_map=label_map)
    if (instances := sample.instances) is None:
        return sample
    masks = None if instances.masks is None else tv_tensors.Mask(kernels.crop(instances.masks, *window))
    cropped = replace(instances, boxes=kernels.crop(instances.boxes, *window), masks=masks)
    return replace(sample, instances=keep_visible(cropped))


def keep_visible(instances: Instances) -> Instances:
    """The instances whose box has an area and, where there are masks, whose mask has a pixel."""
    boxes, masks = instances.boxes, instances.masks
    keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    if masks is not None:
        keep &= torch.from_numpy(masks.numpy().any(axis=(1, 2)))  # ends at the first pixel; torch reads them all
    if keep.all():
        return instances
    masks = None if masks is None else tv_tensors.Mask(masks[keep])
    return Instances(tv_tensors.wrap(boxes[keep], like=boxes), masks, instances.labels[keep], instances.crowd[keep])


@dataclass(frozen=True)
class ImageOnly:
    """A test transform that sees the image alone, since scores are those of the annotations as they are on disk.

    A label map is passed by as it is; instances are left behind, because the metric reads the annotation file.
    """

    transform: Transform

    def __call__(self, sample: Sample) -> Sample:
        """Transforms the image of one sample."""
        image_only = self.transform(replace(sample, instances=None, label_map=None))
        return replace(image_only, label_map=sample.label_map)


@dataclass(frozen=True)
class RandomShortSide:
    """Resizes to a short side drawn from a list, or less to keep the long one's limit: multi-scale training."""

    short_sides: Sequence[int]
    max_long_side: int

    def __post_init__(self) -> None:
        """Refuses limits that no image can meet, and caps that would never let the short side be reached."""
        short_sides, cap = self.short_sides, self.max_long_side
        if not short_sides or min(short_sides) < 1:
            raise ConfigError(
                f"resize: short sides must be a non-empty list of positive pixels, got {list(short_sides)}"
            )
        if cap < max(short_sides):
            raise ConfigError(f"resize: the long-side cap {cap} is below the short side {max(short_sides)}")

    def __call__(self, sample: Sample) -> Sample:
        """Draws a short side and resizes one sample to it."""
        short_side = self.short_sides[_randint(0, len(self.short_sides) - 1)]
        return resize(sample, rescaled_size(sample.size, short_side, self.max_long_side))


@dataclass(frozen=True)
class RandomCrop:
    """Crops a random window; what mmdetection calls `absolute_range` with negative crops allowed.

    Height and width are drawn independently and uniformly from [min(side, min_size), min(side, max_size)], then the
    window's place; a window without any instance is a valid result. See `crop` for what happens to the instances.
    """

    min_size: int
    max_size: int

    def __post_init__(self) -> None:
        if not 1 <= self.min_size <= self.max_size:
            raise ConfigError(f"random crop: needs 1 <= min_size <= max_size, got ({self.min_size}, {self.max_size})")

    def __call__(self, sample: Sample) -> Sample:
        """Draws a window and crops one sample to it."""
        height, width = (_randint(min(side, self.min_size), min(side, self.max_size)) for side in sample.size)
        top = _randint(0, sample.size[0] - height)
        left = _randint(0, sample.size[1] - width)
        return crop(sample, top, left, height, width)


class RandomHorizontalFlip(v2.RandomHorizontalFlip):  # type: ignore[misc]  # torchvision has no types
    """Mirrors left and right with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ConfigError(f"random flip: the probability must lie in 0..1, got {p}")
        super().__init__(float(p))


def short_side_or_crop(
    short_sides: Sequence[int],
    max_long_side: int,
    crop_short_sides: Sequence[int],
    crop_range: tuple[int, int],
) -> Transform:
    """The official Swin detection policy (from DETR): with equal chance one of two ways to a random scale.

    | branch | steps | |---|---| | resize | short side from `short_sides` | | crop | short side from `crop_short_sides`,
    random crop of `crop_range`, short side from `short_sides` |

    The official values are short sides 480, 512, ..., 800, long side 1333, crop short sides 400, 500, 600 and a crop
    range of (384, 600).
    """
    resize_only = RandomShortSide(short_sides, max_long_side)
    crop_first = Compose([RandomShortSide(crop_short_sides, max_long_side), RandomCrop(*crop_range), resize_only])
    policy: Transform = RandomChoice([resize_only, crop_first])
    return policy


def official_train_transform() -> Transform:
    """The training transform of the official Swin detectors: `short_side_or_crop` with its values, then a flip."""
    policy = short_side_or_crop(range(480, 801, 32), 1333, (400, 500, 600), (384, 600))
    transform: Transform = Compose([policy, RandomHorizontalFlip()])
    return transform


def _resize_masks(masks: Tensor, size: Size) -> tv_tensors.Mask:
    """Nearest neighbours of (..., H, W) masks: pixel i of a resized axis shows pixel floor(i * old / new).

    Many masks are most of the work of a resize, and most of a mask is empty: only the rows and columns between the
    first and the last that hold anything are looked at.
    """
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, masks.shape[-2:], strict=True))
    before = masks.numpy().reshape(-1, *masks.shape[-2:])
    after = np.zeros((len(before), *size), dtype=before.dtype)
    for mask, resized in zip(before, after, strict=True):
        shown_rows = rows[down := _extent(mask.any(axis=1)[rows])]
        if len(shown_rows):
            first = shown_rows[0]
            part = mask[first : shown_rows[-1] + 1]
            across = _extent(part.any(axis=0)[columns])
            resized[down, across] = part.take(columns[across], axis=1).take(shown_rows - first, axis=0)
    return tv_tensors.Mask(torch.from_numpy(after.reshape(*masks.shape[:-2], *size)))


def _extent(is_shown: NDArray[np.bool_]) -> slice:
    """From the first to the last place that is shown."""
    places = np.flatnonzero(is_shown)
    return slice(places[0], places[-1] + 1) if len(places) else slice(0)


def _randint(low: int, high: int) -> int:
    """A uniform integer of low..high, both included."""
    return int(torch.randint(low, high + 1, ()))
