"""Parts of models, for exports, features, pictures and sizes; their heads need no weights.

Shapes: (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from swin_dense.backbones import VARIANTS, FeatureSpec, SwinTransformer, create_backbone
from swin_dense.backbones.plain import PlainSwin
from swin_dense.config import Config
from swin_dense.devices import chosen_device
from swin_dense.errors import ConfigError, WeightsError, nearest, option
from swin_dense.export.models import IMAGENET, ModelPart, as_feature_model, traceable
from swin_dense.models import (
    build_whole,
    find_config,
    labels_of,
    same_random_weights,
    take_weights,
    weights_file,
)
from swin_dense.openmmlab.features import PROBE, specs_of
from swin_dense.tasks import task_of
from swin_dense.tasks.base import ANY_CLASSES, declared_classes
from swin_dense.weights import LoadReport

if TYPE_CHECKING:
    from swin_dense.stats import ModelStats
    from swin_dense.visualize.inspection import InspectedModel

PARTS = ("backbone", "neck", "whole")
"""What of a model can be exported as one file."""


def features_of(
    source: Any,
    weights: str | PathLike[str] | None = None,
    *,
    random_weights: bool = False,
    stages: Sequence[int] | None = None,
    neck: bool = False,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> Any:
    """A module from uint8 images to features: stages of a backbone, levels of a neck, with weights of any classes.

    Args:
        source: As for `load`.
        weights: Checkpoint; None takes those of a run folder.
        random_weights: Do without; always the same random ones.
        stages: Numbers of the backbone's stages, from 1; None takes all, or none where the neck is wanted.
        neck: Whether the levels of a config's neck are wanted.
        overrides: Changes of config keys.
    """
    if stages is not None and (not stages or min(stages) < 1 or sorted(set(stages)) != list(stages)):
        raise ConfigError(f"stages {tuple(stages)}: must be ascending numbers from 1, for instance 1,2,3,4")
    config, path = _config_and_weights(source, weights, random_weights, overrides)
    return as_feature_model(_feature_part(config, str(source), path, stages, neck)).eval()


def view_of(source: Any, *, resized: bool, overrides: Sequence[str] | Mapping[str, Any] = ()) -> dict[str, int]:
    """What a config sees, as arguments of `export_features`; empty for a backbone variant.

    That is images of the size at which it tests, if they are to be `resized`, and clips as it trains on.
    """
    config, _ = find_config(source, None, overrides)
    if config is None:
        return {}
    task = task_of(config)
    return {**(task.test_size(config) if resized else {}), **task.clip(config)}


def _feature_part(
    config: Config | None, variant: str, weights: Path | None, stages: Sequence[int] | None, neck: bool
) -> ModelPart:
    if config is None:
        if neck:
            raise ConfigError(
                f"{variant} is a backbone without a neck: name a detection config to get levels of an FPN"
            )
        backbone, report = build_backbone(variant, weights, stages)
        part = ModelPart(backbone, backbone.feature_specs, description=variant)
        missing = () if report is None else tuple(note.name for note in report.missing)
    else:
        task = task_of(config)
        network, report = headless(config, weights, neck)
        part = task.maps(network, () if stages is None and neck else stages, neck)
        part = replace(part, description=_describe(config))
        heads = task.heads(network, neck)
        missing = () if report is None else tuple(n.name for n in report.missing if n.name.split(".")[0] not in heads)
    return replace(part, weights="random" if weights is None else weights.name, missing=missing)


def load_part(
    source: Any,
    weights: str | PathLike[str] | None = None,
    *,
    part: str | None = None,
    random_weights: bool = False,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> ModelPart:
    """What is exported as one file; arguments as for `features_of`.

    The neck's levels come with the backbone before it; None takes the largest part that there is. The weights have to
    hold all of it.
    """
    if part is not None and part not in PARTS:
        raise ConfigError(f'there is no part "{part}"; {nearest(part, PARTS)}')
    config, path = _config_and_weights(source, weights, random_weights, overrides)
    if config is None:
        if part not in (None, "backbone"):
            raise ConfigError(f"{option('part', part)}: {source} is a backbone alone; name a config")
        return _feature_part(None, str(source), path, None, False)
    task = task_of(config)
    if part == "whole" or (part is None and task.exports_whole):
        names = labels_of(config, path).class_names
        model = build_whole(config, path, names)
        whole, size = task.whole(model.network), task.whole_size(config)
        detector = task.whole_detector(config, model)
        return ModelPart(
            whole,
            () if detector is not None else (_logits(whole, size or ()),),
            replace(task.preprocessing(model.network), divisor=1),
            "whole",
            _describe(config),
            class_names=names if path is not None else (),
            weights="random" if path is None else path.name,
            size=size,
            detector=detector,
        )
    neck = config.model.get("neck") is not None if part is None else part == "neck"
    chosen = _feature_part(config, "", path, None if not neck else (), neck)
    if neck:
        return replace(chosen, name="neck")
    return replace(chosen, preprocessing=replace(chosen.preprocessing, divisor=1))  # a Swin pads inside its windows


def _logits(whole: nn.Module, size: Sequence[int]) -> FeatureSpec:
    with torch.no_grad():
        (logits,) = whole(torch.zeros(1, 3, *size[:-2], PROBE, PROBE))
    stride = specs_of("p", (logits,))[0].stride if logits.ndim == 4 else 0  # classifiers have no map
    return FeatureSpec("logits", logits.shape[1], stride)


def load_inspected(
    source: Any,
    weights: str | PathLike[str] | None = None,
    *,
    class_name: str | None = None,
    random_weights: bool = False,
    device: str | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> InspectedModel:
    """A model in plain form, to draw pictures of its features; arguments as for `features_of` and `load`.

    Grad-CAM explains the class that is named, or the one that the model is surest of.
    """
    from swin_dense.visualize.inspection import InspectedModel

    place = chosen_device(device)
    config, path = _config_and_weights(source, weights, random_weights, overrides)
    if config is None:
        if class_name is not None:
            raise ConfigError(
                f"{option('class_name', class_name)}: {source} is a backbone alone and knows no classes; name a config"
            )
        return InspectedModel(PlainSwin(build_backbone(str(source), path)[0]).eval().to(place), IMAGENET)
    names = labels_of(config, path).class_names
    whole = build_whole(config, path, names)
    kind = type(getattr(whole.network, "backbone", whole.network))
    if not issubclass(kind, SwinTransformer):
        raise ConfigError(f"model.backbone is a {kind.__name__}; only a Swin can be looked into")
    plain: Any = traceable(whole).to(place)
    task = task_of(config)
    target = task.explained(plain, names, class_name)
    return InspectedModel(
        plain.network.backbone, task.preprocessing(plain.network), target, task.inspected_reader(config)
    )


def _config_and_weights(
    source: Any,
    weights: str | PathLike[str] | None,
    random_weights: bool,
    overrides: Sequence[str] | Mapping[str, Any],
) -> tuple[Config | None, Path | None]:
    config, folder = find_config(source, None, overrides)
    if (weights is None and folder is None) != random_weights:
        raise ConfigError(
            f"this needs weights: pass {option('weights', 'FILE')}, or {option('random_weights')} to do without, "
            "and not both"
        )
    return config, None if random_weights else weights_file(weights, folder)


def _describe(config: Config) -> str:
    backbone = config.model["backbone"]
    return f"{config.model['type']} with {backbone.get('variant', backbone['type'])}"


def sizes_of(source: Any, height: int, width: int, *, overrides: Sequence[str] | Mapping[str, Any] = ()) -> ModelStats:
    """Parameters and multiply-adds of a config or a variant, for the published class count; no data set is read."""
    from swin_dense.stats import FRAMES, model_stats

    config, _ = find_config(source, None, overrides)
    if config is None:
        frames = (FRAMES,) if len(VARIANTS[str(source)].window) == 3 else ()
        blank = torch.zeros(1, 3, *frames, height, width)
        return model_stats(
            build_backbone(str(source), None)[0], lambda module: module(blank.to(next(module.parameters()).device))
        )
    task = task_of(config)
    network = task.build_network(config.model, task.published_classes or declared_classes(config.model))
    return model_stats(network, lambda module: task.count_forward(module, height, width, config))


def build_backbone(
    variant: str, weights: Path | None, stages: Sequence[int] | None = None
) -> tuple[SwinTransformer, LoadReport | None]:
    """A backbone variant, all of its stages (counted from 1) or some, and what became of the weights."""
    with same_random_weights():
        backbone = create_backbone(variant)
        if stages is not None:
            names = [spec.name for spec in backbone.feature_specs]
            unknown = [stage for stage in stages if f"stage{stage}" not in names]
            if unknown:
                raise ConfigError(f"{variant} emits {', '.join(names)}; there is no stage{unknown[0]}")
            backbone = create_backbone(variant, out_indices=[names.index(f"stage{stage}") for stage in stages])
    report = None if weights is None else take_weights(backbone, weights)
    return backbone.eval(), report


def headless(config: Config, weights: Path | None, neck: bool) -> tuple[Any, LoadReport | None]:
    """The network of a config with the weights of backbone and, perhaps, neck alone; its heads are random."""
    task = task_of(config)
    with same_random_weights():
        network = task.build_network(config.model, ANY_CLASSES).eval()
    if weights is None:
        return network, None
    report = take_weights(network, weights, ignore=task.heads(network, neck))
    if neck and any(note.name.startswith("neck.") for note in report.missing):
        raise WeightsError(f"{weights} holds a backbone alone: do without the neck, or take weights of the whole model")
    return network, report
