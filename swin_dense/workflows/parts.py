"""A model, or a part of one, with trained weights: what an export and pictures of features take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.backbones import FeatureSpec, SwinTransformer, create_backbone
from swin_dense.backbones.plain import PlainSwin
from swin_dense.config import Config, SegmentationConfig
from swin_dense.errors import ConfigError, nearest
from swin_dense.export.models import IMAGENET, ModelPart, Preprocessing, traceable
from swin_dense.openmmlab import segmentation
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.openmmlab.segmentation import OpenMMLabSegmenter
from swin_dense.tasks.trained import labels_of, load_whole_model
from swin_dense.visualize.inspection import InspectedModel, area_target, object_target
from swin_dense.weights import load_weights
from swin_dense.weights.files import missing_file
from swin_dense.workflows.headless import ANY_CLASSES, PROBE, build_headless, load_headless, specs_of

PARTS = ("backbone", "neck", "whole")
"""What of a model can be had; "neck" is backbone and neck."""


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
        backbone,
        backbone.feature_specs,
        description=name,
        weights=weights.name if weights else "random",
        missing=missing,
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
    return ModelPart(
        chain,
        outputs,
        preprocessing,
        part,
        _describe(config),
        weights=weights.name if weights else "random",
        missing=missing,
        pyramid=tuple(one.name for one in outputs) if part == "neck" else (),
    )


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
    source = weights.name if weights else "random"
    return ModelPart(whole, outputs, preprocessing, "whole", _describe(config), names, source)


def declared_classes(model: dict[str, Any]) -> int:
    """The class count of an mmdet or mmseg model dict, where neither weights nor data give another."""
    heads = model.get("decode_head") or model.get("bbox_head") or model.get("roi_head", {}).get("bbox_head")
    head = heads[-1] if isinstance(heads, list) else heads
    return int(head["num_classes"]) if isinstance(head, dict) and "num_classes" in head else ANY_CLASSES


def _outputs(module: nn.Module, letter: str) -> tuple[FeatureSpec, ...]:
    with torch.no_grad():
        return specs_of(letter, module(torch.zeros(1, 3, PROBE, PROBE)))


def preprocessing_of(network: Any, *, padded: bool) -> Preprocessing:
    """What the preprocessor of an mmdet or mmseg network does to RGB images; its padding only where it is asked for.

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


def load_inspected(model: Config | str, weights: Path | None, class_name: str | None) -> InspectedModel:
    """A model in plain form, to draw pictures of its features.

    Args:
        model: A config, or the name of a backbone variant.
        weights: Of all of it; None leaves random weights.
        class_name: The class that Grad-CAM explains; None takes the one that the model is surest of.

    Raises:
        SwinDenseError: The model cannot be built, the weights do not fit, or a backbone was given a class.
    """
    torch.manual_seed(0)
    if isinstance(model, str):
        if class_name is not None:
            raise ConfigError(f"--class {class_name}: {model} is a backbone alone and knows no classes; name a config")
        backbone = create_backbone(model)
        if weights is not None:
            load_weights(backbone, weights)
        return InspectedModel(PlainSwin(backbone.eval()).eval(), IMAGENET)
    names = _class_names(model, weights)
    is_segmenter = isinstance(model, SegmentationConfig)
    whole = (OpenMMLabSegmenter if is_segmenter else OpenMMLabDetector)(model.model, len(names)).eval()
    if weights is not None:
        load_whole_model(whole.network, weights, names)
    if not isinstance(whole.network.backbone, SwinTransformer):
        raise ConfigError(
            f"model.backbone is a {type(whole.network.backbone).__name__}; only a Swin can be looked into"
        )
    copy: Any = traceable(whole)
    target = (area_target if is_segmenter else object_target)(copy, names, class_name)
    return InspectedModel(copy.network.backbone, preprocessing_of(copy.network, padded=False), target)


def _class_names(config: Config, weights: Path | None) -> Sequence[str]:
    if weights is not None:
        return tuple(labels_of(weights, config)["class_names"])
    return tuple(f"class {number}" for number in range(1, declared_classes(config.model) + 1))
