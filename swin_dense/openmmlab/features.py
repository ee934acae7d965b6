"""The maps of an mmdet or mmseg network: stages of its backbone, and levels of its neck.

Shapes: B images of one size, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.backbones import FeatureSpec
from swin_dense.errors import ConfigError

PROBE = 256
"""Side in pixels of the blank image that shows widths and strides of a network's maps."""


class NetworkMaps(nn.Module):
    """Stages of a network's backbone, and levels of its neck, computed from preprocessed images.

    `feature_specs` has one entry per map, stages before levels ("p2" is the level with stride 4); `pyramid` names the
    levels, which share one space of features.
    """

    def __init__(self, network: Any, stages: Sequence[int] | None, neck: bool) -> None:
        """Takes the stages of these numbers, from 1 (None: all), and the neck's levels of an mmdet or mmseg network."""
        super().__init__()
        if neck and not network.with_neck:
            raise ConfigError("model: there is no neck, so it has no levels to export; ask for the backbone")
        self.backbone = network.backbone
        self.neck: nn.Module | None = network.neck if neck else None
        device = next(network.parameters()).device
        self.eval()  # as a statement: many a backbone of theirs returns nothing of eval()
        with torch.inference_mode():
            maps = self.backbone(torch.zeros(1, 3, PROBE, PROBE, device=device))
            all_stages = specs_of("stage", maps)
            levels = () if self.neck is None else specs_of("p", self.neck(maps))
        names = [spec.name for spec in all_stages]
        self.places = list(range(len(names))) if stages is None else [place_of(stage, names) for stage in stages]
        self.feature_specs = (*(all_stages[place] for place in self.places), *levels)
        self.pyramid = tuple(level.name for level in levels)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """One map per spec, from images (B, 3, H, W) as the network's preprocessor makes them."""
        maps = self.backbone(images)
        levels = () if self.neck is None else self.neck(maps)
        return (*(maps[place] for place in self.places), *levels)


def preprocessing_of(network: Any) -> tuple[tuple[float, ...], tuple[float, ...], bool, int]:
    """What an mmdet or mmseg network's preprocessor does to RGB images in 0..255 at test time.

    Mean and standard deviation of red, green and blue, whether the channels are swapped then, and the number of pixels
    that the padded sides are multiples of.
    """
    theirs = network.data_preprocessor
    swaps = bool(getattr(theirs, "_channel_conversion", False) or getattr(theirs, "channel_conversion", False))
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if hasattr(theirs, "mean"):
        mean, std = _numbers(theirs.mean), _numbers(theirs.std)
    divisor = getattr(theirs, "pad_size_divisor", None) or (getattr(theirs, "test_cfg", None) or {}).get("size_divisor")
    if divisor and divisor > 1 and getattr(theirs, "pad_value", getattr(theirs, "pad_val", 0)) != 0:
        raise ConfigError("model.data_preprocessor pads with another value than 0, which cannot be exported")
    order = -1 if swaps else 1  # it subtracts the mean after it has swapped the channels
    return mean[::order], std[::order], swaps, int(divisor or 1)


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values.flatten())


def specs_of(letter: str, maps: Sequence[Tensor]) -> tuple[FeatureSpec, ...]:
    """Maps (1, C, H, W) of a blank image of `PROBE` pixels, named by their strides if each has its own."""
    strides = [round(PROBE / one.shape[-1]) for one in maps]
    numbers = [stride.bit_length() - 1 - (letter == "stage") for stride in strides]
    if len(set(numbers)) < len(numbers):
        numbers = list(range(1, len(maps) + 1))
    return tuple(
        FeatureSpec(f"{letter}{number}", one.shape[1], stride)
        for number, one, stride in zip(numbers, maps, strides, strict=True)
    )


def place_of(stage: int, names: Sequence[str]) -> int:
    """The position of a stage, counted from 1, among the maps that a backbone emits."""
    if f"stage{stage}" not in names:
        raise ConfigError(f"the backbone emits {', '.join(names)}; there is no stage{stage}")
    return names.index(f"stage{stage}")
