"""One view of an image: what a segmenter says of it, at the size of the image on disk, a band of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.inference.resampling import BilinearAxis, MosaicAxis
from swin_dense.records import Size, rescaled_size


class Segmenter(Protocol):
    """A model that scores every class at every pixel; its logits are resized with its `align_corners`."""

    align_corners: bool

    def logits(self, images: Tensor) -> Tensor:
        """(B, K, h, w) float32 logits, of any size, of (B, 3, H, W) uint8 RGB without padding."""


@dataclass(frozen=True)
class EvaluationSize:
    """The size at which a model sees an image, at a ratio of the test scale; a side that is None has no limit."""

    short_side: int | None
    max_long_side: int | None

    def __call__(self, size: Size, ratio: float = 1.0) -> Size:
        """The largest size within both sides."""
        short_side, max_long_side = self.short_side or min(size), self.max_long_side or max(size)
        return rescaled_size(size, round(short_side * ratio), round(max_long_side * ratio))


@dataclass(frozen=True)
class Windows:
    """A grid of equal windows over a view, by the first rows and the first columns of the windows."""

    size: Size
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def over(cls, view: Size, crop_size: Size | None, stride: Size | None) -> Windows:
        """The windows that cover a view; None takes the whole view. The last ones are moved back into it."""
        size = view if crop_size is None else (min(view[0], crop_size[0]), min(view[1], crop_size[1]))
        tops, lefts = (_starts(*one) for one in zip(view, size, stride or view, strict=True))
        return cls(size, tops, lefts)


def logits_in_bands(
    model: Segmenter, view: Tensor, windows: Windows, mirrored: bool, target: Size, rows: int
) -> Iterator[Tensor]:
    """Yields (B, rows, W, K) logits of a (B, 3, h, w) uint8 view resized to the images on disk, from top to bottom.

    The logits of a crop are computed when the first band touches the crop, and forgotten when the last one has.

    Args:
        model: The segmenter.
        view: Images, resized.
        windows: The crops, which cover the view.
        mirrored: Whether the model sees left and right exchanged; they are exchanged back in its logits.
        target: Height H and width W of the images on disk.
        rows: Of a band; the last may have fewer.
    """
    crop_height, crop_width = windows.size
    lefts = windows.lefts
    if mirrored:  # the windows of the mirrored view, counted in the view itself
        lefts = tuple(view.shape[-1] - crop_width - left for left in lefts)

    def predict(top: int) -> dict[int, Tensor]:
        """(B, K, h, w) of the crops that begin at a row, by their first columns."""
        row = view[:, :, top : top + crop_height]
        return {left: _logits(model, row[..., left : left + crop_width], mirrored) for left in lefts}

    crops = {0: predict(0)}
    logits_size = crops[0][lefts[0]].shape[-2:]
    axis_y, axis_x = (
        MosaicAxis(
            starts,
            crop=BilinearAxis.between(logits_size[i], windows.size[i], model.align_corners),
            resize=BilinearAxis.between(view.shape[2 + i], target[i], model.align_corners),
        )
        for i, starts in enumerate((windows.tops, lefts))
    )
    for start in range(0, target[0], rows):
        stop = min(start + rows, target[0])
        tops = axis_y.crops(start, stop)
        crops = {top: crops[top] for top in tops if top in crops}  # lets the others go before new ones come
        crops |= {top: predict(top) for top in tops if top not in crops}
        strips = {left: axis_y.assemble({top: crops[top][left] for top in tops}, 2, start, stop) for left in lefts}
        # A gather of columns is 4 times as quick when it moves the K logits of a pixel at once.
        strips = {left: strip.permute(0, 2, 3, 1).contiguous() for left, strip in strips.items()}
        yield axis_x.assemble(strips, 2, 0, target[1])


def resize_images(images: Tensor, size: Size) -> Tensor:
    """Bilinear, not antialiased (B, 3, H, W) uint8: within one grey level of OpenCV, with which models are tested."""
    if size == tuple(images.shape[-2:]):
        return images
    return functional.interpolate(images.float(), size=size, mode="bilinear").round_().to(torch.uint8)


def _starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    """First pixels of the windows along one axis."""
    count = 1 + math.ceil((length - window) / stride)
    return tuple(min(i * stride, length - window) for i in range(count))


def _logits(model: Segmenter, images: Tensor, mirrored: bool) -> Tensor:
    """The model's logits; those of mirrored images are mirrored back."""
    return model.logits(images.flip(-1)).flip(-1) if mirrored else model.logits(images)
