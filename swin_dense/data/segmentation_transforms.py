"""The official transforms of semantic segmentation, as mmsegmentation defines them; see `transforms` for how they work.

The published recipe is `RandomRatioResize`, `RandomClassCrop`, `RandomHorizontalFlip`, `PhotoMetricDistortion`. Images
that are smaller than the crop are padded after normalisation, which is the model's: the image with 0, the label map
with what is ignored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import Compose
from torchvision.transforms.v2 import functional as kernels

from swin_dense.data.transforms import RandomHorizontalFlip, Transform, crop, resize
from swin_dense.errors import ConfigError
from swin_dense.records import Sample, Size, rescaled_size

CROP_TRIES = 10
"""How many windows are looked at before one is taken as it comes."""


@dataclass(frozen=True)
class RandomRatioResize:
    """Resizes to a scale times a random ratio, the aspect ratio unchanged: (2048, 512) times 0.5..2 officially.

    Attributes:
        scale: Most pixels of the longer and of the shorter side at ratio 1, in either order.
        ratio_range: Least and greatest ratio; it is drawn uniformly between.
    """

    scale: tuple[int, int]
    ratio_range: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        if not 0 < self.ratio_range[0] <= self.ratio_range[1] or int(min(self.scale) * self.ratio_range[0]) < 1:
            raise ConfigError(f"ratio resize: no pixel is left of scale {self.scale} at a ratio of {self.ratio_range}")

    def __call__(self, sample: Sample) -> Sample:
        """Draws a ratio and resizes one sample."""
        ratio = _uniform(*self.ratio_range)
        short_side, long_side = (int(side * ratio) for side in sorted(self.scale))
        return resize(sample, rescaled_size(sample.size, short_side, long_side))


@dataclass(frozen=True)
class RandomClassCrop:
    """Crops a random window of which no class takes too great a part.

    Ten windows are drawn until one has several classes and none of them takes `cat_max_ratio` or more of the pixels
    that have a class; the eleventh is taken as it comes. An image with a side shorter than the window keeps that side.

    Attributes:
        crop_size: Height and width of the window.
        cat_max_ratio: 0.75 officially; 1 takes the first window.
    """

    crop_size: Size
    cat_max_ratio: float = 0.75

    def __post_init__(self) -> None:
        if min(self.crop_size) < 1 or not 0 < self.cat_max_ratio <= 1:
            raise ConfigError(
                f"random crop: needs a crop_size of positive pixels and a cat_max_ratio in 0..1, got {self.crop_size} "
                f"and {self.cat_max_ratio}"
            )

    def __call__(self, sample: Sample) -> Sample:
        """Draws windows and crops one sample to the chosen one."""
        window = self._draw(sample.size)
        if self.cat_max_ratio < 1:
            for _ in range(CROP_TRIES):
                if self._is_mixed(sample, window):
                    break
                window = self._draw(sample.size)
        return crop(sample, *window)

    def _draw(self, size: Size) -> tuple[int, int, int, int]:
        """Top, left, height and width of a random window."""
        height, width = (min(side, wanted) for side, wanted in zip(size, self.crop_size, strict=True))
        top, left = (int(torch.randint(0, room + 1, ())) for room in (size[0] - height, size[1] - width))
        return top, left, height, width

    def _is_mixed(self, sample: Sample, window: tuple[int, int, int, int]) -> bool:
        """Whether the window has several classes, none of them too great."""
        assert sample.label_map is not None, "classes come from the label map"
        labels = kernels.crop(sample.label_map, *window)
        counts = torch.bincount(labels[labels >= 0])
        return int((counts > 0).sum()) > 1 and float(counts.max() / counts.sum()) < self.cat_max_ratio


@dataclass(frozen=True)
class PhotoMetricDistortion:
    """Changes brightness, contrast, saturation and hue, each with probability 1/2; contrast after brightness or last.

    Every step ends in whole grey levels of 0..255, as in mmsegmentation, whose results these are to within the 8 bits
    of its HSV images.

    Attributes:
        brightness_delta: Most grey levels that are added or taken away.
        contrast_range: Least and greatest factor of the grey levels.
        saturation_range: Least and greatest factor of the saturation.
        hue_delta: Most that the hue is turned, in whole steps as OpenCV counts them: 180 to the full circle. As in
            mmsegmentation, it is turned back by that many steps, and forth by one less.
    """

    brightness_delta: float = 32
    contrast_range: tuple[float, float] = (0.5, 1.5)
    saturation_range: tuple[float, float] = (0.5, 1.5)
    hue_delta: int = 18

    def __post_init__(self) -> None:
        ranges = (self.contrast_range, self.saturation_range)
        if any(not 0 <= low <= high for low, high in ranges) or self.brightness_delta < 0:
            raise ConfigError(
                "photometric distortion: needs brightness_delta >= 0 and ranges with 0 <= least <= greatest"
            )
        if not 0 <= self.hue_delta <= 90:
            raise ConfigError(f"photometric distortion: hue_delta must lie in 0..90, got {self.hue_delta}")

    def __call__(self, sample: Sample) -> Sample:
        """Draws what is changed and by how much, and changes one sample."""
        image = sample.image.as_subclass(Tensor).contiguous()  # colours are computed plane by plane
        if _coin():
            image = shift_brightness(image, _uniform(-self.brightness_delta, self.brightness_delta))
        contrast_first = _coin()
        if contrast_first and _coin():
            image = scale_contrast(image, _uniform(*self.contrast_range))
        if _coin():
            image = scale_saturation(image, _uniform(*self.saturation_range))
        if _coin():
            image = turn_hue(image, math.floor(_uniform(-self.hue_delta, self.hue_delta)))
        if not contrast_first and _coin():
            image = scale_contrast(image, _uniform(*self.contrast_range))
        return replace(sample, image=tv_tensors.Image(image))


def official_transform(crop_size: Size = (512, 512), scale: tuple[int, int] = (2048, 512)) -> Transform:
    """The published recipe of training on ADE20K, for a crop of this height and width."""
    transform: Transform = Compose(
        [RandomRatioResize(scale), RandomClassCrop(crop_size), RandomHorizontalFlip(0.5), PhotoMetricDistortion()]
    )
    return transform


def shift_brightness(image: Tensor, levels: float) -> Tensor:
    """Adds grey levels to a (3, H, W) uint8 image; fractions are cut off."""
    return image.float().add_(levels).clamp_(0, 255).to(torch.uint8)


def scale_contrast(image: Tensor, factor: float) -> Tensor:
    """Multiplies the grey levels: what torchvision calls brightness; fractions are cut off."""
    scaled: Tensor = kernels.adjust_brightness(image, factor)
    return scaled


def scale_saturation(image: Tensor, factor: float) -> Tensor:
    """Multiplies the saturation S = (max - min) / max of HSV, at most to 1, at the same hue and value.

    Torchvision's saturation is another thing: it blends with grey of the same luma, and so changes the value.
    """
    pixels = image.float()
    least, greatest = pixels.aminmax(dim=0)
    # Every channel's distance to the greatest one grows with S; S = 1 is reached where the least channel is 0.
    stretch = (greatest / (greatest - least).clamp_(min=1)).clamp_(max=factor)
    return (greatest - (greatest - pixels) * stretch).round_().to(torch.uint8)


def turn_hue(image: Tensor, steps: float) -> Tensor:
    """Turns the hue of HSV by -90..90 of OpenCV's steps, 180 to the full circle; saturation and value stay."""
    turned: Tensor = kernels.adjust_hue(image, steps / 180)
    return turned


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _coin() -> bool:
    return bool(torch.rand(()) < 0.5)
