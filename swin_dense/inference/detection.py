"""How a detector is run on images: once as they are, or on several views whose detections are merged.

A *view* of an image is a region of it (the whole, or a slice of a large image), resized to one scale of the test size
and perhaps mirrored. A detector that sees one view of an image has the last word on it. With several views (test-time
augmentation, slices, or both) their detections are moved into the image and merged class by class.

Views of one size run together, and only those: a detector sees more of the padding of a smaller image, so images of
different sizes in one batch would influence each other. So what is found in an image does not depend on the others.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from pycocotools import mask as rle_codec
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as kernels

from swin_dense.errors import ConfigError, check_lowest
from swin_dense.inference import Windows, check_scales
from swin_dense.inference.merging import Merged, Merging
from swin_dense.records import Batch, Detections, Rle, Size


@dataclass(frozen=True)
class View:
    """A region of an image, resized to what a detector sees and perhaps mirrored.

    Attributes:
        top: First row of the region.
        left: First column.
        region: Its height and width in pixels on disk.
        size: Height and width at which the detector sees it.
    """

    top: int
    left: int
    region: Size
    size: Size
    mirrored: bool = False

    def show(self, image: Tensor) -> Tensor:
        """(3, h, w) of `size` of a (3, H, W) uint8 image on disk, as training transforms would make it."""
        height, width = self.region
        pixels = image[:, self.top : self.top + height, self.left : self.left + width]
        if self.size != self.region:
            pixels = kernels.resize(pixels, list(self.size), interpolation=InterpolationMode.BILINEAR, antialias=False)
        return pixels.flip(-1) if self.mirrored else pixels

    def boxes_in_image(self, boxes: Tensor) -> Tensor:
        """Moves (N, 4) XYXY boxes from pixels of the region, as it is shown, to pixels of the image."""
        if self.mirrored:
            x1, y1, x2, y2 = boxes.unbind(dim=1)
            width = self.region[1]
            boxes = torch.stack([width - x2, y1, width - x1, y2], dim=1)
        return boxes + boxes.new_tensor([self.left, self.top, self.left, self.top])

    def mask_in_image(self, mask: Rle, size: Size) -> Rle:
        """Moves a mask of the region, as it is shown, into an image of this height and width.

        No array of the image's size is made: runs go down the columns, so only the region's columns are looked at.
        """
        if self.region == size and not self.mirrored:
            return mask
        pixels = rle_codec.decode(mask)
        columns = np.zeros((self.region[1], size[0]), dtype=bool)
        columns[:, self.top : self.top + self.region[0]] = (pixels[:, ::-1] if self.mirrored else pixels).T
        edges = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False)) + self.left * size[0]
        lengths = np.diff(edges, prepend=0, append=size[0] * size[1])
        runs = lengths if lengths[-1] else lengths[:-1]
        placed: Rle = rle_codec.frPyObjects({"size": list(size), "counts": runs.tolist()}, *size)
        return placed


class DetectionModel(Protocol):
    """A model that finds objects."""

    def predict(self, batch: Batch) -> list[Detections]:
        """The objects of each image, on the CPU, in pixels of `batch.original_sizes`, best score first."""


@dataclass(frozen=True)
class DetectionInference:
    """How objects are found in images.

    Images are handed in as they are on disk and resized here, on the device: test-time augmentation needs every scale
    of the original, slices need its pixels, and one whole view is then no special case.

    Attributes:
        evaluation_size: (size on disk, ratio of the test scale) -> size at which the detector sees that region.
        scales: Ratios of the test scale.
        flip: Shows every scale mirrored, too.
        slice_size: Pixels on disk of a slice, shown like an image of its own; None shows no slices.
        slice_overlap: Least part of a slice, in 0..1, that its neighbours see too; the last are moved into the image.
        whole_image: Whether a sliced image is seen as a whole, too; objects larger than a slice need it.
        merging: How the detections of several views become one list.
        max_detections: Most detections of an image, the best ones; None keeps all.
        batch_size: Views that the detector sees at a time.
    """

    evaluation_size: Callable[[Size, float], Size]
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    slice_size: Size | None = None
    slice_overlap: float = 0.2
    whole_image: bool = True
    merging: Merging = Merging()
    min_score: float = 0.0
    max_detections: int | None = None
    batch_size: int = 1

    def __post_init__(self) -> None:
        check_scales(self.scales)
        if self.slice_size is not None and min(self.slice_size) < 1:
            raise ConfigError(f"inference.slice_size must be positive pixels, got {self.slice_size}")
        if not 0 <= self.slice_overlap < 1:
            raise ConfigError(f"inference.slice_overlap must be at least 0 and below 1, got {self.slice_overlap}")
        if self.slice_size is None and not self.whole_image:
            raise ConfigError("inference.whole_image is False, but there is no inference.slice_size: nothing is seen")
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"inference.min_score must lie in 0..1, got {self.min_score}")
        check_lowest("inference", self, max_detections=1, batch_size=1)

    @torch.inference_mode()
    def predict(self, model: DetectionModel, batch: Batch) -> list[Detections]:
        """The objects of each image, on the CPU, in pixels of the image on disk, best score first."""
        assert batch.sizes == batch.original_sizes, "inference resizes the images itself"
        views = [(place, view) for place, size in enumerate(batch.sizes) for view in self._views(size)]
        of_size: dict[Size, list[int]] = defaultdict(list)
        for index, (_, view) in enumerate(views):
            of_size[view.size].append(index)
        found: dict[int, Detections] = {}
        for members in of_size.values():
            for start in range(0, len(members), self.batch_size):
                chunk = members[start : start + self.batch_size]
                found.update(zip(chunk, model.predict(_shown(batch, [views[i] for i in chunk])), strict=True))
        of_image: list[list[tuple[View, Detections]]] = [[] for _ in range(len(batch))]
        for index, (place, view) in enumerate(views):
            of_image[place].append((view, found[index]))
        return [self._combined(size, one) for size, one in zip(batch.sizes, of_image, strict=True)]

    def _views(self, size: Size) -> Iterator[View]:
        """The views of an image, in an order that depends on its size alone."""
        regions = [(0, 0, size)] if self.whole_image else []
        if self.slice_size is not None:
            stride = tuple(max(1, math.floor(side * (1 - self.slice_overlap))) for side in self.slice_size)
            windows = Windows.over(size, self.slice_size, (stride[0], stride[1]))
            regions += [(top, left, windows.size) for top in windows.tops for left in windows.lefts]
        for top, left, region in dict.fromkeys(regions):  # an image no larger than a slice is seen once
            for ratio in self.scales:
                for mirrored in (False, True) if self.flip else (False,):
                    yield View(top, left, region, self.evaluation_size(region, ratio), mirrored)

    def _combined(self, size: Size, found: Sequence[tuple[View, Detections]]) -> Detections:
        """The best of what the views of one image have found, merged."""
        labels = torch.cat([one.labels for _, one in found])
        boxes = torch.cat([view.boxes_in_image(one.boxes) for view, one in found])
        scores = torch.cat([one.scores for _, one in found])
        if len(found) == 1:
            merged = Merged(boxes, scores, [[i] for i in range(len(labels))])
        else:
            merged = self.merging(boxes, scores, labels)
        kept = merged.best(self.min_score, self.max_detections)
        masks = None
        if all(one.masks is not None for _, one in found):
            candidates = [(view, mask) for view, one in found for mask in one.masks or ()]
            combine = _voted if self.merging.method == "vote" else _united
            masks = [combine([candidates[i] for i in group], size) for group in kept.members]
        return Detections(kept.boxes, kept.scores, labels[[group[0] for group in kept.members]], masks)


def _united(masks: Sequence[tuple[View, Rle]], size: Size) -> Rle:
    """The union of several views' masks, in pixels of an image of this size."""
    placed = [view.mask_in_image(mask, size) for view, mask in masks]
    return placed[0] if len(placed) == 1 else cast(Rle, rle_codec.merge(placed))


def _voted(masks: Sequence[tuple[View, Rle]], size: Size) -> Rle:
    """The pixels that most of the views that show them hold to be the object's; the first view decides a draw."""
    placed = [view.mask_in_image(mask, size) for view, mask in masks]
    if len(placed) == 1:
        return placed[0]
    votes = rle_codec.decode(placed[0]).astype(np.int16)  # the draw
    for (view, _), mask in zip(masks, placed, strict=True):
        (top, left), (height, width) = (view.top, view.left), view.region
        region = slice(top, top + height), slice(left, left + width)
        votes[region] += 4 * rle_codec.decode(mask)[region].astype(np.int16) - 2
    return cast(Rle, rle_codec.encode(np.asfortranarray(votes > 0)))


def _shown(batch: Batch, views: Sequence[tuple[int, View]]) -> Batch:
    """What the detector is given: views of one size, each as if it were an image whose size on disk is its region."""
    images = []
    for place, view in views:
        height, width = batch.sizes[place]
        images.append(view.show(batch.images[place, :, :height, :width]))
    return Batch(
        images=torch.stack(images),
        sizes=tuple(view.size for _, view in views),
        original_sizes=tuple(view.region for _, view in views),
        image_ids=tuple(batch.image_ids[place] for place, _ in views),
        file_names=tuple(batch.file_names[place] for place, _ in views),
    )
