"""Count what a model costs."""

from __future__ import annotations

import torch

from swin_dense.backbones import create_backbone
from swin_dense.config import Config, DetectionConfig
from swin_dense.openmmlab import detection, segmentation
from swin_dense.openmmlab.counting import run_detector, run_segmenter
from swin_dense.stats import ModelStats, model_stats

PUBLISHED_CLASSES = {"detection": 80, "segmentation": 150}
"""Class counts that published sizes are given for, COCO's and ADE20K's; no data set is read."""


def stats(model: Config | str, height: int, width: int) -> ModelStats:
    """Counts parameters and multiply-adds.

    Args:
        model: A config, or the name of a backbone variant.
        height: Of the image, in pixels.
        width: Likewise.

    Returns:
        The sizes, whole and by part.

    Raises:
        ConfigError: There is no such variant, or the model cannot be built.
    """
    if isinstance(model, str):
        backbone = create_backbone(model)
        return model_stats(backbone, lambda module: module(_blank_image(module, height, width)))
    room, run = (detection, run_detector) if isinstance(model, DetectionConfig) else (segmentation, run_segmenter)
    network = room.build_network(model.model, num_classes=PUBLISHED_CLASSES[model.task])
    return model_stats(network, lambda module: run(module, height, width))


def _blank_image(module: torch.nn.Module, height: int, width: int) -> torch.Tensor:
    return torch.zeros(1, 3, height, width, device=next(module.parameters()).device)
