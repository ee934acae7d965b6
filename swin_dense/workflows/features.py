"""Models to export features from: a config or a backbone variant, with its weights.

Shapes: B images of one size, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from swin_dense.backbones import FeatureSpec, create_backbone
from swin_dense.config import Config, DetectionConfig, load_config
from swin_dense.errors import ConfigError
from swin_dense.export.models import RawImages
from swin_dense.weights import LoadReport, load_weights
from swin_dense.workflows.headless import PROBE, build_headless, load_headless, specs_of

SEED = 0
"""Of random weights, so that an interrupted export with them can be continued."""


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
            stages: Numbers of the stages, from 1; None takes all of them, or none where the neck is wanted.
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
        if stages is None:
            stages = [] if neck else [int(spec.name.removeprefix("stage")) for spec in all_stages]
        self.places = [_place(stage, all_stages) for stage in stages]
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


def feature_model(
    model: Config | Path | str,
    *,
    weights: Path | str | None = None,
    random_weights: bool = False,
    stages: Sequence[int] | None = None,
    neck: bool = False,
) -> nn.Module:
    """Builds the model that features are exported from.

    Args:
        model: A config, the path of a config file, or the name of a backbone variant.
        weights: Checkpoint of any known format, of the whole model or of the backbone.
        random_weights: Do without weights; always the same random ones.
        stages: Numbers of the backbone's stages, from 1; None takes all of them, or none where the neck is wanted.
        neck: Whether the levels of a config's neck are wanted.

    Returns:
        A model for `export_features`.

    Raises:
        ConfigError: There is no such model, stage or neck, or nothing says which weights are wanted.
        WeightsError: The weights do not fit, or lack what is wanted.
    """
    if (weights is None) != random_weights:
        raise ConfigError("features need weights: pass --weights FILE, or --random-weights to do without, and not both")
    if stages is not None and (not stages or min(stages) < 1 or sorted(set(stages)) != list(stages)):
        raise ConfigError(f"stages {tuple(stages)}: must be ascending numbers from 1, for instance 1,2,3,4")
    if isinstance(model, (str, Path)) and str(model).endswith(".py"):
        model = load_config(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        if isinstance(model, (str, Path)):
            return _variant(str(model), weights, stages, neck)
        network = build_headless(model)
    if weights is not None:
        _tell(load_headless(network, weights, neck))
    return NetworkFeatures(network, stages, neck)


def evaluation_size(config: Config) -> dict[str, int]:
    """The size at which a config tests, as arguments of `export_features`.

    Args:
        config: Any.

    Returns:
        `short_side` and `max_long_side`; nothing where images keep their size.
    """
    if isinstance(config, DetectionConfig):
        augmentation = config.augmentation
        return {"short_side": augmentation.test_short_side, "max_long_side": augmentation.test_max_long_side}
    scale = config.augmentation.test_scale
    return {} if scale is None else {"short_side": min(scale), "max_long_side": max(scale)}


def _variant(name: str, weights: Path | str | None, stages: Sequence[int] | None, neck: bool) -> RawImages:
    if neck:
        raise ConfigError(
            f"{name} is a backbone without a neck; name a detection config to export the levels of its FPN"
        )
    backbone = create_backbone(name)
    if stages is not None:
        places = [_place(stage, backbone.feature_specs) for stage in stages]
        backbone = create_backbone(name, out_indices=places)
    if weights is not None:
        _tell(load_weights(backbone, weights))
    return RawImages(backbone, feature_specs=backbone.feature_specs)


def _tell(report: LoadReport) -> None:
    Console(stderr=True).print(report.summary(), highlight=False)


def _place(stage: int, specs: Sequence[FeatureSpec]) -> int:
    names = [spec.name for spec in specs]
    if f"stage{stage}" not in names:
        raise ConfigError(f"the backbone puts out {', '.join(names)}; there is no stage{stage}")
    return names.index(f"stage{stage}")
