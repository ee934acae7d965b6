"""What an export asks of a model, and how a plain backbone meets it.

Shapes: B images of one size, (H, W) pixels, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from swin_dense.errors import ConfigError

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Of red, green and blue in 0..255; what nearly all published Swin weights were trained with."""


class MapSpec(Protocol):
    """One feature map; `swin_dense.backbones.FeatureSpec` is one."""

    @property
    def name(self) -> str:
        """Such as "stage1" or "p2"."""
        ...

    @property
    def channels(self) -> int:
        """Channels of the map."""
        ...

    @property
    def stride(self) -> int:
        """Pixels per cell."""
        ...


class FeatureModel(Protocol):
    """Images in, feature maps out.

    Attributes:
        feature_specs: One per map.
        size_divisor: The model pads images right and bottom to a multiple of this many pixels.
        pyramid: Names of the maps that share one space of features, as the levels of an FPN do.
    """

    feature_specs: Sequence[MapSpec]
    size_divisor: int
    pyramid: tuple[str, ...]

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Computes the maps of images of one size.

        Args:
            images: (B, 3, H, W) uint8 RGB.

        Returns:
            One (B, C_i, H_i, W_i) map per spec, H_i = ceil(padded H / stride).
        """
        ...


class NormalizedBackbone(nn.Module):
    """A backbone that is given uint8 images.

    Attributes:
        backbone: Takes normalised images and has `feature_specs`.
        feature_specs: The backbone's.
        size_divisor: 1; a Swin pads inside its windows alone.
        pyramid: Empty: each stage has features of its own.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: nn.Module, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        """Puts the normalisation before a backbone.

        Args:
            backbone: The backbone.
            mean: Of red, green and blue, in 0..255, as in the training of the weights.
            std: Likewise.
        """
        super().__init__()
        specs: Any = backbone.feature_specs
        self.backbone = backbone
        self.feature_specs: tuple[MapSpec, ...] = tuple(specs)
        self.size_divisor = 1
        self.pyramid: tuple[str, ...] = ()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalises, and runs the backbone.

        Args:
            images: (B, 3, H, W) uint8 RGB.

        Returns:
            One map per spec.
        """
        maps: tuple[Tensor, ...] = self.backbone((images.float() - self.mean) / self.std)
        return maps


def as_feature_model(model: nn.Module) -> nn.Module:
    """Makes sure that a model can be exported from.

    Args:
        model: A `FeatureModel`, or a backbone, which is then given images normalised as ImageNet's.

    Returns:
        A module that is a `FeatureModel`.

    Raises:
        ConfigError: It is something else.
    """
    if isinstance(model, nn.Module) and hasattr(model, "feature_specs"):
        return model if hasattr(model, "size_divisor") else NormalizedBackbone(model)
    shown = f'"{model}"' if isinstance(model, str) else type(model).__name__
    raise ConfigError(
        f"{shown} is no model with feature_specs; swin_dense.workflows.features.feature_model makes one of a config "
        "or a variant with its weights"
    )


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of all parameters and buffers.

    The same weights have the same hash whatever file and format they came from.

    Args:
        model: On any device.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
