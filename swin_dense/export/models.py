"""What an export takes: a model with its preprocessing, and its form that a tracer can follow.

Shapes: B images of one size, (H, W) pixels, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from swin_dense.backbones import FeatureSpec, SwinClassifier, SwinTransformer
from swin_dense.backbones.classifier import PlainClassifier
from swin_dense.backbones.plain import PlainSwin, sharing_copy
from swin_dense.errors import ConfigError


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects to have been done to RGB images in 0..255: (RGB - mean) / std, then `bgr`, then the padding.

    Attributes:
        mean: Of red, green and blue.
        std: Likewise.
        bgr: Whether the colours are put in the order blue, green, red.
        divisor: Images are zero-padded at the bottom and the right to multiples of this many pixels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False
    divisor: int = 1

    def __call__(self, images: Tensor) -> Tensor:
        """Normalises images (B, 3, H, W), without the padding."""
        mean, std = (torch.tensor(one, device=images.device).view(3, 1, 1) for one in (self.mean, self.std))
        normalised = (images.float() - mean) / std
        return normalised.flip(1) if self.bgr else normalised


IMAGENET = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""What nearly all published Swin weights were trained with."""


@dataclass(frozen=True)
class WholeDetector:
    """What is known of a part that finds objects; `export.detections` says what it returns.

    Attributes:
        reference: The detector itself, with `predict(batch)`.
        short_side: Pixels of the shorter side of the images that it is tested on.
        max_long_side: Most pixels of their longer side.
        mask_threshold: From this probability on a pixel is of an object; None where it finds boxes alone.
        images: Folder with images to try it on, where there is one.
        opset: The first version of ONNX's operators with all that it needs.
    """

    reference: Any
    short_side: int
    max_long_side: int
    mask_threshold: float | None
    images: Path | None
    opset: int


@dataclass(frozen=True)
class ModelPart:
    """A model, or a part of one, ready to be exported.

    Attributes:
        module: Takes preprocessed images (B, 3, H, W) and returns a tuple of maps; in evaluation mode.
        outputs: The maps.
        preprocessing: What `module` expects.
        name: Which part it is: "backbone", "neck" (with the backbone) or "whole".
        description: Which model it is of.
        class_names: Of the logits, where the weights hold them.
        weights: Name of the file that the weights came from.
        missing: Parameters that the weights do not hold, and that stayed as they are initialised.
        pyramid: Names of the outputs that share one space of features, as the levels of an FPN do.
        size: Height and width of the images that it takes, or frames, height and width of clips; None where any images
            will do.
        detector: What else is known of it, where it is a whole detector, which has no maps as `outputs`.
    """

    module: nn.Module
    outputs: tuple[FeatureSpec, ...]
    preprocessing: Preprocessing = IMAGENET
    name: str = "backbone"
    description: str = ""
    class_names: tuple[str, ...] = ()
    weights: str = "random"
    missing: tuple[str, ...] = ()
    pyramid: tuple[str, ...] = ()
    size: tuple[int, ...] | None = None
    detector: WholeDetector | None = None


class RawImages(nn.Module):
    """A model behind its preprocessing: it takes RGB images in 0..255, so that no user can get that wrong."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        preprocessing: Preprocessing = IMAGENET,
        feature_specs: Sequence[FeatureSpec] = (),
        pyramid: tuple[str, ...] = (),
    ) -> None:
        """Puts the preprocessing before `body`, which takes preprocessed images (B, 3, H, W) and returns maps."""
        super().__init__()
        self.body, self.bgr, self.size_divisor = body, preprocessing.bgr, preprocessing.divisor
        self.feature_specs, self.pyramid = tuple(feature_specs), pyramid
        device = next((one.device for one in body.parameters()), None)
        for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The maps of images (B, 3, H, W), or of clips (B, T, 3, H, W), RGB, uint8 or float32 in 0..255."""
        normalised = (images - self.mean) / self.std
        if images.ndim == 5:
            return tuple(self.body(normalised.transpose(1, 2)))
        if self.bgr:
            normalised = normalised.flip(1)
        if (side := self.size_divisor) > 1:
            height, width = images.shape[2:]
            bottom, right = ((size + side - 1) // side * side - size for size in (height, width))
            normalised = functional.pad(normalised, (0, right, 0, bottom))
        return tuple(self.body(normalised))


def as_feature_model(model: nn.Module | ModelPart) -> nn.Module:
    """A module that maps uint8 images (B, 3, H, W) to maps, and has `feature_specs`, `size_divisor` and `pyramid`.

    A backbone without the last two is given images normalised as ImageNet's.
    """
    if isinstance(model, ModelPart):
        return RawImages(model.module, model.preprocessing, model.outputs, model.pyramid)
    specs = getattr(model, "feature_specs", None)
    if isinstance(model, nn.Module) and specs is not None:
        return model if hasattr(model, "size_divisor") else RawImages(model, feature_specs=specs)
    shown = f'"{model}"' if isinstance(model, str) else type(model).__name__
    raise ConfigError(
        f"{shown} is no model with feature_specs; pass a backbone (swin_dense.backbones.create_backbone) with its "
        "weights, or what swin_dense.load gives"
    )


def traceable(module: nn.Module) -> nn.Module:
    """A copy with the same parameters that leaves batch, height and width open to a tracer.

    What computes sizes in Python is replaced: the backbone by its plain form, adaptive pools by matrix products.
    """
    return _replaced(sharing_copy(module))


def _replaced(module: nn.Module) -> nn.Module:
    if isinstance(module, SwinClassifier):
        return PlainClassifier(module).eval()
    if isinstance(module, SwinTransformer):
        return PlainSwin(module).eval()
    if isinstance(module, nn.AdaptiveAvgPool2d):
        size = module.output_size
        rows, columns = size if isinstance(size, tuple) else (size, size)
        return module if rows is None or columns is None else PlainAdaptivePool((rows, columns))
    for name, child in module.named_children():
        setattr(module, name, _replaced(child))
    return module


class PlainAdaptivePool(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two matrix products, which a tracer can follow with height and width left open."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: Tensor) -> Tensor:
        """Averages maps (B, C, H, W) to (B, C, *size)."""
        down, across = (_bins(cells, length, maps) for cells, length in zip(self.size, maps.shape[2:], strict=True))
        return down @ maps @ across.t()


def _bins(cells: int, length: int, like: Tensor) -> Tensor:
    """(cells, length), the weights with which each cell averages over positions."""
    cell = torch.arange(cells, device=like.device)[:, None]
    position = torch.arange(length, device=like.device)
    first = (cell * length).div(cells, rounding_mode="floor")
    stop = ((cell + 1) * length + cells - 1).div(cells, rounding_mode="floor")
    inside = ((position >= first) & (position < stop)).to(like.dtype)
    return inside / (stop - first)


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of all parameters and buffers, whatever file they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
