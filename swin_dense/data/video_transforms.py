"""The official transforms of videos, with torchvision's implementations: the same for every frame of a clip.

Randomness is drawn from torch's generator alone; who seeds it decides what a sample looks like (see `samplers`).
"""

from __future__ import annotations

from torchvision.transforms import v2
from torchvision.transforms.v2 import Compose, InterpolationMode

from swin_dense.data.classification_transforms import MEAN_COLOUR
from swin_dense.data.transforms import Transform
from swin_dense.errors import ConfigError


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
    if not 0 < scale[0] <= scale[1] or not 0 < ratio[0] <= ratio[1] or size < 1:
        raise ConfigError(f"random crop: no part of size {size}, scale {scale} and ratio {ratio} can be drawn")
    if not 0 <= flip_probability <= 1 or not 0 <= erase_probability <= 1:
        raise ConfigError(f"probabilities lie in 0..1, not {flip_probability} and {erase_probability}")
    steps: list[Transform] = [
        v2.RandomResizedCrop(size, scale, ratio, interpolation=InterpolationMode.BILINEAR, antialias=False),
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
