"""The official transforms of classification, of images and of clips, with torchvision's and timm's implementations.

Training: a random part of the image at a random aspect ratio (bicubic), mirrored or not, RandAugment. Random erasing,
Mixup and CutMix follow where the batch is normalised: they are of `training.modules`. What is drawn is the same
for every frame of a clip. See `transforms` for how they work.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import Compose, InterpolationMode
from torchvision.transforms.v2 import functional as kernels

from swin_dense.data.transforms import RandomHorizontalFlip, Transform
from swin_dense.errors import ConfigError, DataError
from swin_dense.records import MAX_ENLARGED, Sample

RAND_AUGMENT = "rand-m9-mstd0.5-inc1"
"""The official RandAugment in timm's notation: magnitude 9 of 10, with a normal spread of 0.5."""

MEAN_COLOUR = (124, 116, 104)
"""ImageNet's mean, RGB in 0..255, which fills what RandAugment moves into view."""


MAGNITUDE_MAX = 9.99
"""What 10, the greatest magnitude, is lowered to: there timm keeps no bit of a colour, which Pillow now refuses."""


@dataclass(frozen=True)
class CentreView:
    """What is seen of an image in evaluation, (3, size, size) uint8, bicubic.

    Attributes:
        size: Side in pixels.
        resize: The shorter side before the middle is cut out: 256 for 224 officially; None resizes the whole image to
            the square, as officially for 384.
    """

    size: int
    resize: int | None = None

    def __post_init__(self) -> None:
        """Refuses a crop that is larger than what it is cut out of."""
        if self.size < 1 or (self.resize is not None and self.resize < self.size):
            raise ConfigError(f"a test size of {self.size} pixels cannot be cut out of a short side of {self.resize}")

    def __call__(self, sample: Sample) -> Sample:
        """Transforms the image of one sample."""
        return replace(sample, image=tv_tensors.Image(self.of(sample.image)))

    def of(self, image: Tensor) -> Tensor:
        """Resizes one image and cuts out its middle."""
        height, width = image.shape[-2:]
        if self.resize is None:
            target = [self.size, self.size]
        else:
            short = min(height, width)
            target = [self.resize * side // short for side in (height, width)]
        if target[0] * target[1] > max(MAX_ENLARGED, height * width):
            raise DataError(f"an image of {width} x {height} pixels is too long to be classified; cut a part out of it")
        resized = kernels.resize(image, target, interpolation=InterpolationMode.BICUBIC, antialias=True)
        view: Tensor = kernels.center_crop(resized, [self.size, self.size])
        return view


@dataclass(frozen=True)
class RandAugment:
    """RandAugment (arXiv 1909.13719) by timm, which the official recipe uses, for samples that are images alone.

    Attributes:
        config: In timm's notation.
        size: Side of the images in pixels, by which translations are measured.
    """

    config: str
    size: int

    def __post_init__(self) -> None:
        """Refuses what timm does not understand."""
        _timm_rand_augment(self.config, self.size)

    def __call__(self, sample: Sample) -> Sample:
        """Draws operations and changes one sample."""
        changed = _timm_rand_augment(self.config, self.size)(kernels.to_pil_image(sample.image))
        return replace(sample, image=tv_tensors.Image(kernels.pil_to_tensor(changed)))


@lru_cache(maxsize=8)
def _timm_rand_augment(config: str, size: int) -> Any:
    from PIL.Image import Resampling
    from timm.data.auto_augment import rand_augment_transform  # some seconds

    options: dict[str, Any] = {"translate_const": int(0.45 * size), "img_mean": MEAN_COLOUR}
    options["interpolation"] = Resampling.BICUBIC
    if "mmax" not in config:
        options["magnitude_max"] = MAGNITUDE_MAX
    try:
        return rand_augment_transform(config, options)
    except (AssertionError, ValueError, IndexError, KeyError) as error:
        raise ConfigError(
            f'augmentation.rand_augment: timm does not understand "{config}" ({error}); write it like {RAND_AUGMENT}'
        ) from error


def random_part(
    size: int, scale: tuple[float, float], ratio: tuple[float, float], flip_probability: float, rand_augment: str | None
) -> Transform:
    """The transform of training images up to `size` x `size` pixels.

    Args:
        size: Side in pixels.
        scale: Least and greatest part of the image's area that is seen.
        ratio: Least and greatest width per height of that part.
        flip_probability: How often an image is mirrored.
        rand_augment: In timm's notation; None does without.
    """
    crop = _random_crop(size, scale, ratio, interpolation=InterpolationMode.BICUBIC, antialias=True)
    steps: list[Transform] = [crop, RandomHorizontalFlip(flip_probability)]
    if rand_augment is not None:
        steps.append(RandAugment(rand_augment, size))
    transform: Transform = Compose(steps)
    return transform


def official_transform(size: int = 224) -> Transform:
    """The published recipe of training on ImageNet."""
    return random_part(size, (0.08, 1.0), (3 / 4, 4 / 3), 0.5, RAND_AUGMENT)


def _random_crop(size: int, scale: tuple[float, float], ratio: tuple[float, float], **options: Any) -> Transform:
    if not 0 < scale[0] <= scale[1] or not 0 < ratio[0] <= ratio[1] or size < 1:
        raise ConfigError(f"random crop: no part of size {size}, scale {scale} and ratio {ratio} can be drawn")
    crop: Transform = v2.RandomResizedCrop(size, scale, ratio, **options)
    return crop


def random_clip_view(
    size: int = 224,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip_probability: float = 0.5,
    rand_augment: tuple[int, int] | None = None,
    erase_probability: float = 0.0,
) -> Transform:
    """The transform of training clips up to `size` x `size` pixels; the defaults are those of Kinetics.

    Args:
        size: Side in pixels.
        scale: Least and greatest part of a frame's area that is seen.
        ratio: Least and greatest width per height of that part.
        flip_probability: How often a clip is mirrored; 0 where classes tell left from right, as in Something-Something.
        rand_augment: Number of operations and their magnitude, 0 to 30, of RandAugment (arXiv 1909.13719); None does
            without. The official recipe of Something-Something has (4, 7).
        erase_probability: How often a rectangle, the same of all frames, is painted over with ImageNet's mean colour,
            which is 0 once the images are normalised (arXiv 1708.04896).
    """
    if not 0 <= flip_probability <= 1 or not 0 <= erase_probability <= 1:
        raise ConfigError(f"probabilities lie in 0..1, not {flip_probability} and {erase_probability}")
    steps: list[Transform] = [
        _random_crop(size, scale, ratio, interpolation=InterpolationMode.BILINEAR, antialias=False),
        v2.RandomHorizontalFlip(flip_probability),
    ]
    if rand_augment is not None:
        operations, magnitude = rand_augment
        if operations < 1 or not 0 <= magnitude <= 30:
            raise ConfigError(f"rand_augment: {rand_augment} must be at least 1 operation and a magnitude of 0 to 30")
        fill = list(MEAN_COLOUR)
        steps.append(v2.RandAugment(operations, magnitude, interpolation=InterpolationMode.BILINEAR, fill=fill))
    if erase_probability > 0:
        steps.append(v2.RandomErasing(erase_probability, value=list(MEAN_COLOUR)))
    transform: Transform = Compose(steps)
    return transform
