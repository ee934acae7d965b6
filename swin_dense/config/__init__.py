"""Configs: found by name or path, and read into frozen dataclasses."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from swin_dense.config.common import OptimizerConfig, TrainingConfig
from swin_dense.config.parsing import (
    TASKS,
    Config,
    config_text,
    describe_recipe,
    find_config,
    is_config,
    list_recipes,
    load_config,
    settings_of,
)

if TYPE_CHECKING:
    from swin_dense.config.classification import (
        ClassificationAugmentationConfig,
        ClassificationConfig,
        ClassificationDataConfig,
        ClassificationInferenceConfig,
        CosineScheduleConfig,
        LabelledImagesConfig,
    )
    from swin_dense.config.detection import (
        AugmentationConfig,
        DataConfig,
        DetectionConfig,
        DetectionInferenceConfig,
        ScheduleConfig,
        SplitConfig,
    )
    from swin_dense.config.segmentation import (
        LabelledSplitConfig,
        PolynomialScheduleConfig,
        SegmentationAugmentationConfig,
        SegmentationConfig,
        SegmentationDataConfig,
        SegmentationInferenceConfig,
    )
    from swin_dense.config.video import (
        LabelledVideosConfig,
        VideoAugmentationConfig,
        VideoConfig,
        VideoDataConfig,
        VideoInferenceConfig,
        VideoOptimizerConfig,
        VideoViewsConfig,
    )

__all__ = [
    "TASKS",
    "AugmentationConfig",
    "ClassificationAugmentationConfig",
    "ClassificationConfig",
    "ClassificationDataConfig",
    "ClassificationInferenceConfig",
    "Config",
    "CosineScheduleConfig",
    "DataConfig",
    "DetectionConfig",
    "DetectionInferenceConfig",
    "LabelledImagesConfig",
    "LabelledSplitConfig",
    "LabelledVideosConfig",
    "OptimizerConfig",
    "PolynomialScheduleConfig",
    "ScheduleConfig",
    "SegmentationAugmentationConfig",
    "SegmentationConfig",
    "SegmentationDataConfig",
    "SegmentationInferenceConfig",
    "SplitConfig",
    "TrainingConfig",
    "VideoAugmentationConfig",
    "VideoConfig",
    "VideoDataConfig",
    "VideoInferenceConfig",
    "VideoOptimizerConfig",
    "VideoViewsConfig",
    "config_text",
    "describe_recipe",
    "find_config",
    "is_config",
    "list_recipes",
    "load_config",
    "settings_of",
]


def __getattr__(name: str) -> Any:
    """A class of a task's settings, which is imported when it is asked for (PEP 562)."""
    for module in (import_module(f"swin_dense.config.{task}") for task in (TASKS if name in __all__ else ())):
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
