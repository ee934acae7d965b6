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


class NetworkFeatures(nn.Module):
    """The maps of an mmdet or mmseg network: stages of its backbone, and levels of its neck.

    The network's own preprocessor normalises and pads, so the maps are those that its heads see when the image is
    alone in its batch.

    Attributes:
        feature_specs: One per map, stages before levels; "p2" is the level with stride 4.
        size_divisor: Of the padding.
        pyramid: Names of the levels.
    """

    def __init__(self, network: Any, stages: Sequence[int] | None, neck: bool) -> None:
        """Takes what is needed of a network.

        Args:
            network: An mmdet detector or an mmseg segmentor.
            stages: Numbers of the stages, from 1; None takes all of them.
            neck: Whether the neck's levels are wanted.

        Raises:
            ConfigError: The network has no neck, or no such stage.
        """
        super().__init__()
        if neck and not network.with_neck:
            raise ConfigError("model: there is no neck, so --neck has no levels to export")
        preprocessor = network.data_preprocessor
        self.size_divisor = int(
            getattr(preprocessor, "pad_size_divisor", None)
            or (getattr(preprocessor, "test_cfg", None) or {}).get("size_divisor")
            or 1
        )
        self.backbone, self.preprocessor = network.backbone, preprocessor
        self.neck: nn.Module | None = network.neck if neck else None
        with torch.inference_mode():
            blank = torch.zeros(1, 3, PROBE, PROBE)
            maps = self.backbone.eval()(blank)
            all_stages = specs_of("stage", maps)
            levels = () if self.neck is None else specs_of("p", self.neck.eval()(maps))
        names = [spec.name for spec in all_stages]
        self.places = list(range(len(names))) if stages is None else [place_of(stage, names) for stage in stages]
        self.feature_specs = (*(all_stages[place] for place in self.places), *levels)
        self.pyramid = tuple(level.name for level in levels)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalises, pads, and runs backbone and neck.

        Args:
            images: (B, 3, H, W) uint8 RGB.

        Returns:
            One map per spec.
        """
        # mmengine's preprocessor is not told when its parent moves, and would carry the images back.
        preprocessor: Any = self.preprocessor.to(images.device)
        maps = self.backbone(preprocessor({"inputs": list(images)}, False)["inputs"])
        levels = () if self.neck is None else self.neck(maps)
        return (*(maps[place] for place in self.places), *levels)


def specs_of(letter: str, maps: Sequence[Tensor]) -> tuple[FeatureSpec, ...]:
    """Names maps by their strides, if each has its own: "stage1" and "p2" have stride 4.

    Args:
        letter: "stage" or "p".
        maps: (1, C, H, W) each, of a blank image of `PROBE` pixels.

    Returns:
        One for each map.
    """
    strides = [round(PROBE / one.shape[-1]) for one in maps]
    numbers = [stride.bit_length() - 1 - (letter == "stage") for stride in strides]
    if len(set(numbers)) < len(numbers):
        numbers = list(range(1, len(maps) + 1))
    return tuple(
        FeatureSpec(f"{letter}{number}", one.shape[1], stride)
        for number, one, stride in zip(numbers, maps, strides, strict=True)
    )


def place_of(stage: int, names: Sequence[str]) -> int:
    """The position of a stage, counted from 1, among the maps that a backbone emits.

    Raises:
        ConfigError: It emits no such stage.
    """
    if f"stage{stage}" not in names:
        raise ConfigError(f"the backbone emits {', '.join(names)}; there is no stage{stage}")
    return names.index(f"stage{stage}")
