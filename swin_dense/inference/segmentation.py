"""From the logits of a segmenter to the class of every pixel of the image on disk.

The steps are those of mmsegmentation's `EncoderDecoder` (whole and sliding window) and `SegTTAModel` (several scales,
mirrored), in exact arithmetic. A *view* of an image is the image resized by one ratio, perhaps mirrored. It is cut into
crops (one, unless a sliding window is asked for); the logits of a crop are resized to the crop; overlaps are averaged;
the view's logits are mirrored back and resized to the image on disk. With one view the class is where its logits are
largest; with several, where the mean of their softmax is largest.

Full-size logits never exist: 150 classes at 2048 x 4096 would be 5 GB. (Probabilities do where they are asked for: 2
bytes for each class of each pixel in half precision, 2.5 GB there.) Rows and columns are resized apart, so the image
is done in bands of rows, from top to bottom. What is alive at a time, beside the model's own:

| what | float32 numbers |
|---|---|
| a band and the temporaries of its making | about 4 x K x `band_pixels`, more where a view is larger than the image |
| the logits of the crops that the band touches, as the head gives them | K x h x w for each crop of each view |

So a sliding window keeps a strip as high as a crop instead of the image, and where rows of crops overlap as many strips
as there are crops over one row of pixels: two if the stride is half a crop or more. Views
add up: the six official ratios, each also mirrored, keep 17.4 times what one whole view keeps.

Rows and columns of a bilinear resize are independent, and so are its target pixels. A band of an image's rows is
therefore resized without the rest of the image, and is bit for bit what the whole image would have shown there.
`torch.nn.functional.interpolate` can only do whole images. Of these it could do some classes at a time, with a running
argmax: one view of 1024 x 2048 pixels and 150 classes then takes 2.4 s instead of 1.9 s on one core, a sliding window
has to keep the logits of all crops instead of two rows of them, and several views need a second pass for their softmax.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.errors import ConfigError, check_lowest
from swin_dense.inference import Windows, check_scales
from swin_dense.records import Batch, Segmentation, Size


class Segmenter(Protocol):
    """A model that scores every class at every pixel; its logits are resized with its `align_corners`."""

    align_corners: bool

    def logits(self, images: Tensor) -> Tensor:
        """(B, K, h, w) float32 logits, of any size, of (B, 3, H, W) uint8 RGB without padding."""


@dataclass(frozen=True)
class SegmentationInference:
    """How a segmenter is run on images.

    Images are handed in as they are on disk and resized here, on the device: test-time augmentation needs every scale
    of the original, and one scale is then no special case.

    Attributes:
        evaluation_size: (size on disk, ratio of the test scale) -> size at which the model sees the image.
        crop_size: Height and width of a sliding window, in pixels of the resized image; None shows the whole image.
        stride: Pixels between windows, down and to the right; the last windows are moved back into the image.
        scales: Ratios of the test scale; the official ones of multi-scale testing are 0.5, 0.75, ..., 1.75.
        flip: Shows every scale mirrored, too.
        probabilities: Precision of the probabilities returned for each class; None returns none. They are kept on
            the CPU: at full size they may be larger than the model.
        band_pixels: Pixels on disk that are resized at a time, at least one row. None takes 2**14 on a CPU, which stay
            in its caches (with 150 classes twice as quick as 2**15 and more), and 2**18, most images whole, on a GPU.
    """

    evaluation_size: Callable[[Size, float], Size]
    crop_size: Size | None = None
    stride: Size | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    probabilities: torch.dtype | None = None
    band_pixels: int | None = None

    def __post_init__(self) -> None:
        """Refuses options out of range, and windows that would leave pixels out."""
        if (self.crop_size is None) != (self.stride is None):
            raise ConfigError("inference: a sliding window needs both crop_size and stride; give both or neither")
        if self.crop_size and self.stride:
            if min(self.crop_size) < 1 or min(self.stride) < 1:
                raise ConfigError(
                    f"inference: crop_size {self.crop_size} and stride {self.stride} must be positive pixels"
                )
            if any(stride > crop for stride, crop in zip(self.stride, self.crop_size, strict=True)):
                raise ConfigError(
                    f"inference.stride {self.stride} is beyond inference.crop_size {self.crop_size}: pixels between "
                    "windows would have no class; lower the stride"
                )
        check_scales(self.scales)
        check_lowest("inference", self, band_pixels=1)

    @torch.inference_mode()
    def predict(self, model: Segmenter, batch: Batch) -> list[Segmentation]:
        """Segments images as they are on disk: label maps on the device of the batch, probabilities on the CPU.

        Images of one size run together; padding is never shown to the model.
        """
        assert batch.sizes == batch.original_sizes, "inference resizes the images itself"
        members = defaultdict(list)
        for place, size in enumerate(batch.sizes):
            members[size].append(place)
        found: dict[int, Segmentation] = {}
        for (height, width), places in members.items():
            images = batch.images[places, :, :height, :width]
            found.update(zip(places, self._segment(model, images), strict=True))
        return [found[place] for place in range(len(batch))]

    def _segment(self, model: Segmenter, images: Tensor) -> list[Segmentation]:
        """Segments (B, 3, H, W) images band by band."""
        count, _, height, width = images.shape
        band_pixels = self.band_pixels or (2**14 if images.device.type == "cpu" else 2**18)
        rows = max(1, band_pixels // (count * width))
        views = [view for ratio in self.scales for view in self._views(model, images, ratio, rows)]
        label_maps = torch.empty((count, height, width), dtype=torch.int32, device=images.device)
        probabilities: list[Tensor] = []
        for top in range(0, height, rows):
            scores = _combined(views)
            label_maps[:, top : top + rows] = scores.argmax(dim=-1)
            if self.probabilities is not None:
                shares = scores if len(views) > 1 else scores.softmax(dim=-1)
                if top == 0:  # the first band shows the number of classes
                    shape = (shares.shape[-1], height, width)
                    probabilities = [torch.empty(shape, dtype=self.probabilities) for _ in range(count)]
                for whole, share in zip(probabilities, shares.permute(0, 3, 1, 2), strict=True):
                    whole[:, top : top + rows] = share
        return [Segmentation(*found) for found in zip_longest(label_maps, probabilities)]

    def _views(self, model: Segmenter, images: Tensor, ratio: float, rows: int) -> list[Iterator[Tensor]]:
        """The logits of the views at one ratio, in bands of the images on disk from top to bottom."""
        height, width = images.shape[-2:]
        view = resize_images(images, self.evaluation_size((height, width), ratio))
        windows = Windows.over((view.shape[-2], view.shape[-1]), self.crop_size, self.stride)
        return [
            logits_in_bands(model, view, windows, mirrored, (height, width), rows)
            for mirrored in ((False, True) if self.flip else (False,))
        ]


def _combined(views: list[Iterator[Tensor]]) -> Tensor:
    """The next band, (B, rows, W, K): the logits of one view, or the mean probabilities of several."""
    if len(views) == 1:
        return next(views[0])
    total = next(views[0]).softmax(dim=-1)
    for view in views[1:]:
        total += next(view).softmax(dim=-1)
    return total.div_(len(views))


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


def _logits(model: Segmenter, images: Tensor, mirrored: bool) -> Tensor:
    """The model's logits; those of mirrored images are mirrored back."""
    return model.logits(images.flip(-1)).flip(-1) if mirrored else model.logits(images)


@dataclass(frozen=True)
class BilinearAxis:
    """Where each pixel of a resized axis comes from: (1 - weight) * source[low] + weight * source[high].

    Attributes:
        source: Pixels before.
        target: Pixels after.
        low: (target,) int64 on the CPU.
        high: Likewise, `low` or the pixel after it where that counts.
        weight: (target,) float64 on the CPU, in 0..1.
    """

    source: int
    target: int
    low: Tensor
    high: Tensor
    weight: Tensor

    @classmethod
    def between(cls, source: int, target: int, align_corners: bool) -> BilinearAxis:
        """The axis of a resize, `align_corners` as in `torch.nn.functional.interpolate`."""
        pixel = torch.arange(target, dtype=torch.float64)
        if align_corners:
            position = pixel * (source - 1) / max(target - 1, 1)
        else:
            position = (((2 * pixel + 1) * source - target) / (2 * target)).clamp(min=0)
        low = position.floor()
        return cls(source, target, low.long(), position.ceil().clamp(max=source - 1).long(), position - low)

    def sources(self, start: int, stop: int) -> tuple[int, int]:
        """The source pixels [first, last) that the target pixels [start, stop) come from."""
        return int(self.low[start]), int(self.high[stop - 1]) + 1

    def pixels(self, source: Tensor, dim: int, start: int, stop: int, first: int = 0) -> Tensor:
        """The target pixels from `start` to before `stop` along `dim` (>= 0) of `source`; may be a view of it.

        `source` begins at source pixel `first`.
        """
        if self.source == self.target:
            return source.narrow(dim, start - first, stop - start)
        low, high = ((index[start:stop] - first).to(source.device) for index in (self.low, self.high))
        weight = _along(self.weight[start:stop], source, dim)
        return source.index_select(dim, low).lerp_(source.index_select(dim, high), weight)


@dataclass(frozen=True)
class MosaicAxis:
    """One axis of an image that is resized after it was put together from overlapping crops.

    Attributes:
        starts: First pixel of each crop, ascending or descending; together the crops cover the axis.
        crop: From what a crop holds to the pixels that it covers; the same for every crop.
        resize: From the pixels put together to those wanted.
    """

    starts: tuple[int, ...]
    crop: BilinearAxis
    resize: BilinearAxis

    def crops(self, start: int, stop: int) -> list[int]:
        """First pixels of the crops that the target pixels [start, stop) come from."""
        first, last = self.resize.sources(start, stop)
        return [begin for begin in self.starts if begin < last and begin + self.crop.target > first]

    def assemble(self, parts: Mapping[int, Tensor], dim: int, start: int, stop: int) -> Tensor:
        """Resizes crops, averages their overlaps, and resizes the whole along `dim` to the target pixels [start, stop).

        `parts` holds each of `crops(start, stop)` by its first pixel.
        """
        first, last = self.resize.sources(start, stop)
        return self.resize.pixels(self._average(parts, dim, first, last), dim, start, stop, first)

    def _average(self, parts: Mapping[int, Tensor], dim: int, first: int, last: int) -> Tensor:
        """Pixels `first` to `last` of the axis before the resize."""
        if len(parts) == 1:
            ((begin, part),) = parts.items()
            return self.crop.pixels(part, dim, first - begin, last - begin)
        example = next(iter(parts.values()))
        total = example.new_zeros((*example.shape[:dim], last - first, *example.shape[dim + 1 :]))
        count = torch.zeros(last - first)
        for begin, part in parts.items():
            low, high = max(first, begin), min(last, begin + self.crop.target)
            total.narrow(dim, low - first, high - low).add_(self.crop.pixels(part, dim, low - begin, high - begin))
            count[low - first : high - first] += 1
        return total.div_(_along(count, total, dim))


def _along(values: Tensor, like: Tensor, dim: int) -> Tensor:
    """A vector in the type and on the device of a tensor, shaped to broadcast along one of its dimensions."""
    return values.to(like.dtype).to(like.device).reshape(-1, *(1 for _ in like.shape[dim + 1 :]))
