"""The architecture of a backbone as the paper's Table 7 lays it out, read from the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch

from swin_dense.backbones import VARIANTS, create_backbone
from swin_dense.backbones.block import SwinStage

FRAMES = 32
"""Frames of the clips that Video Swin is trained on."""


@dataclass(frozen=True)
class StageArchitecture:
    """One row of the table.

    Attributes:
        name: Of the stage's map, "stage1" is the finest.
        downsampling: Pixels per cell.
        output: Cells of the map, (H, W); of videos (T, H, W).
        joined: Pixels, or cells of the stage before, that are joined into one; of videos, pixels of frames first.
        channels: Channels of a token, "dim" in the paper.
        window: Tokens of a window, (rows, columns); of videos (frames, rows, columns).
        heads: Attention heads.
        blocks: Number of blocks.
    """

    name: str
    downsampling: int
    output: tuple[int, ...]
    joined: tuple[int, ...]
    channels: int
    window: tuple[int, ...]
    heads: int
    blocks: int

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers and lists, for JSON."""
        return asdict(self)


def architecture(variant: str, height: int | None = None, width: int | None = None) -> list[StageArchitecture]:
    """The stages of a variant, and the size of their maps for images of (height, width) pixels, or 32 such frames.

    Args:
        variant: A key of `VARIANTS`.
        height: Of the images; None takes the size that the variant is pre-trained at.
        width: Of the images; None takes the height.

    Raises:
        ConfigError: The variant is unknown.

    Example:
        >>> from swin_dense.stats.architecture import architecture
        >>> for stage in architecture("swin_tiny"):
        ...     print(stage.downsampling, stage.output, stage.channels, stage.window, stage.heads, stage.blocks)
        4 (56, 56) 96 (7, 7) 3 2
        8 (28, 28) 192 (7, 7) 6 2
        16 (14, 14) 384 (7, 7) 12 6
        32 (7, 7) 768 (7, 7) 24 2
    """
    with torch.device("meta"):
        backbone = create_backbone(variant)
        height = VARIANTS[variant].pretrain_image_size if height is None else height
        with torch.inference_mode():
            frames = () if backbone.feature_specs[0].temporal_stride is None else (FRAMES,)
            maps = backbone(torch.empty(1, 3, *frames, height, height if width is None else width))
    stages: list[StageArchitecture] = []
    layers = cast(Iterable[SwinStage], backbone.layers)
    for spec, features, stage in zip(backbone.feature_specs, maps, layers, strict=True):
        heads, blocks = spec.channels // stage.head_dim, len(stage.blocks)
        size, joined = tuple(features.shape[2:]), (2, 2) if stages else backbone.patch_embed.patch_size
        stages.append(
            StageArchitecture(spec.name, spec.stride, size, joined, spec.channels, stage.window, heads, blocks)
        )
    return stages
