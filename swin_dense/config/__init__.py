"""Configs: found by name or path, and read into frozen dataclasses."""

from swin_dense.config.common import OptimizerConfig, TrainingConfig
from swin_dense.config.detection import (
    AugmentationConfig,
    DataConfig,
    DetectionConfig,
    DetectionInferenceConfig,
    ScheduleConfig,
    SplitConfig,
)
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
from swin_dense.config.segmentation import (
    LabelledSplitConfig,
    PolynomialScheduleConfig,
    SegmentationAugmentationConfig,
    SegmentationConfig,
    SegmentationDataConfig,
    SegmentationInferenceConfig,
)

__all__ = [
    "TASKS",
    "AugmentationConfig",
    "Config",
    "DataConfig",
    "DetectionConfig",
    "DetectionInferenceConfig",
    "LabelledSplitConfig",
    "OptimizerConfig",
    "PolynomialScheduleConfig",
    "ScheduleConfig",
    "SegmentationAugmentationConfig",
    "SegmentationConfig",
    "SegmentationDataConfig",
    "SegmentationInferenceConfig",
    "SplitConfig",
    "TrainingConfig",
    "config_text",
    "describe_recipe",
    "find_config",
    "is_config",
    "list_recipes",
    "load_config",
    "settings_of",
]
