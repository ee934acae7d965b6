"""A model, or a part of one, with trained weights: what an export takes."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.backbones import FeatureSpec, SwinTransformer, create_backbone
from swin_dense.backbones.plain import PlainSwin
from swin_dense.config import Config, SegmentationConfig
from swin_dense.errors import ConfigError, nearest
from swin_dense.export.graph import PlainAdaptivePool, Preprocessing
from swin_dense.export.models import IMAGENET_MEAN, IMAGENET_STD
from swin_dense.openmmlab import segmentation
from swin_dense.tasks.trained import labels_of, load_whole_model
from swin_dense.weights import load_weights
from swin_dense.weights.files import missing_file
from swin_dense.workflows.headless import ANY_CLASSES, PROBE, build_headless, load_headless, specs_of

PARTS = ("backbone", "neck", "whole")
"""What of a model can be had; "neck" is backbone and neck."""


@dataclass(frozen=True)
class ModelPart:
    """Part of a model.

    Attributes:
        name: One of `PARTS`.
        description: Which model it is of.
        module: Takes preprocessed images (B, 3, H, W) and returns a tuple of maps; in evaluation mode.
        outputs: The maps.
        preprocessing: What it expects.
        class_names: Of the logits, where the weights tell.
        missing: Parameters that the weights do not hold, and that stayed as they are initialised.
    """

    name: str
    description: str
    module: nn.Module
    outputs: tuple[FeatureSpec, ...]
    preprocessing: Preprocessing
    class_names: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def traceable(self) -> nn.Module:
        """The same with the same parameters, in a form that leaves batch, height and width open to a tracer."""
        return traceable(self.module)


class _Chain(nn.Module):
    """Backbone and, perhaps, neck."""

    def __init__(self, backbone: nn.Module, neck: nn.Module | None) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(images)
        return tuple(maps if self.neck is None else self.neck(maps))


class _WholeSegmenter(nn.Module):
    """From preprocessed images to logits."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (segmentation.decode(self.network, images).float(),)


def traceable(module: nn.Module) -> nn.Module:
    """Replaces what sizes are computed in by Python in a model: the backbone by its plain form, adaptive pools too.

    Args:
        module: Any model.

    Returns:
        Another module, which shares parameters and buffers with `module`.
    """
    shared = {id(tensor): tensor for tensor in itertools.chain(module.parameters(), module.buffers())}
    return _replaced(copy.deepcopy(module, memo=dict(shared)))


def _replaced(module: nn.Module) -> nn.Module:
    if isinstance(module, SwinTransformer):
        return PlainSwin(module).eval()
    if isinstance(module, nn.AdaptiveAvgPool2d):
        size = module.output_size
        rows, columns = size if isinstance(size, tuple) else (size, size)
        return module if rows is None or columns is None else PlainAdaptivePool((rows, columns))
    for name, child in module.named_children():
        setattr(module, name, _replaced(child))
    return module


def load_part(model: Config | str, part: str | None, weights: Path | None) -> ModelPart:
    """Builds a model, loads its weights and takes a part.

    Args:
        model: A config, or the name of a backbone variant.
        part: One of `PARTS`; None takes the most that there is.
        weights: Checkpoint that holds all of the part; None leaves random weights.

    Returns:
        The part, in evaluation mode.

    Raises:
        SwinDenseError: There is no such part, the model cannot be built, or the weights do not fit.
    """
    if part is not None and part not in PARTS:
        raise ConfigError(f'--part: unknown "{part}"; {nearest(part, PARTS)}')
    if weights is not None and not weights.is_file():
        raise missing_file(weights)
    torch.manual_seed(0)
    if isinstance(model, str):
        return _variant(model, part or "backbone", weights)
    if isinstance(model, SegmentationConfig) and part in ("whole", None):
        return _segmenter(model, weights)
    if part == "whole":
        raise ConfigError("--part whole: a detector's proposals and boxes vary in number; use --part neck")
    return _feature_part(build_headless(model), model, part, weights)


def _variant(name: str, part: str, weights: Path | None) -> ModelPart:
    backbone = create_backbone(name).eval()
    if part != "backbone":
        raise ConfigError(f"--part {part}: {name} is a backbone alone; name a config")
    report = load_weights(backbone, weights) if weights else None
    missing = tuple(note.name for note in report.missing) if report else ()
    return ModelPart(
        part, name, backbone, backbone.feature_specs, Preprocessing(IMAGENET_MEAN, IMAGENET_STD), missing=missing
    )


def _feature_part(network: Any, config: Config, part: str | None, weights: Path | None) -> ModelPart:
    neck = network.neck if network.with_neck else None
    part = part or ("backbone" if neck is None else "neck")
    if part == "neck" and neck is None:
        raise ConfigError("--part neck: the config's model has no neck; use --part backbone")
    missing: tuple[str, ...] = ()
    if weights:
        notes = load_headless(network, weights, part == "neck").missing
        missing = tuple(note.name for note in notes if note.name.split(".")[0] in PARTS[: PARTS.index(part) + 1])
    chain = _Chain(network.backbone, neck if part == "neck" else None).eval()
    preprocessing = preprocessing_of(network, padded=part == "neck")
    outputs = _outputs(chain, "p" if part == "neck" else "stage")
    return ModelPart(part, _describe(config), chain, outputs, preprocessing, missing=missing)


def _segmenter(config: SegmentationConfig, weights: Path | None) -> ModelPart:
    names: tuple[str, ...] = ()
    if weights is None:
        network = segmentation.build_network(config.model, declared_classes(config.model))
    else:
        names = tuple(labels_of(weights, config)["class_names"])
        network = segmentation.build_network(config.model, len(names))
        load_whole_model(network, weights, names)
    whole = _WholeSegmenter(network.eval()).eval()
    (output,) = _outputs(whole, "p")
    preprocessing = preprocessing_of(network, padded=False)
    outputs = (FeatureSpec("logits", output.channels, output.stride),)
    return ModelPart("whole", _describe(config), whole, outputs, preprocessing, names)


def declared_classes(model: dict[str, Any]) -> int:
    """The class count that a config's model dict gives, where no weights and no data tell another.

    Args:
        model: mmdet or mmseg model dict.
    """
    heads = model.get("decode_head") or model.get("bbox_head") or model.get("roi_head", {}).get("bbox_head")
    head = heads[-1] if isinstance(heads, list) else heads
    return int(head["num_classes"]) if isinstance(head, dict) and "num_classes" in head else ANY_CLASSES


def _outputs(module: nn.Module, letter: str) -> tuple[FeatureSpec, ...]:
    with torch.no_grad():
        return specs_of(letter, module(torch.zeros(1, 3, PROBE, PROBE)))


def preprocessing_of(network: Any, *, padded: bool) -> Preprocessing:
    """What mm*'s own preprocessor does, for images that are RGB.

    Args:
        network: Detector or segmentor of mm*.
        padded: Whether its padding counts.

    Returns:
        The same for an export.

    Raises:
        ConfigError: It pads with something else than zeros.
    """
    theirs = network.data_preprocessor
    swaps = bool(getattr(theirs, "_channel_conversion", False) or getattr(theirs, "channel_conversion", False))
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if hasattr(theirs, "mean"):
        mean, std = _numbers(theirs.mean), _numbers(theirs.std)
    if padded and theirs.pad_size_divisor > 1 and theirs.pad_value != 0:
        raise ConfigError(f"model.data_preprocessor.pad_value is {theirs.pad_value}; only 0 can be exported")
    # It subtracts the mean after it has swapped the channels.
    order = -1 if swaps else 1
    return Preprocessing(mean[::order], std[::order], swaps, theirs.pad_size_divisor if padded else 1)


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values.flatten())


def _describe(config: Config) -> str:
    backbone = config.model["backbone"]
    return f"{config.model['type']} with {backbone.get('variant', backbone['type'])}"
