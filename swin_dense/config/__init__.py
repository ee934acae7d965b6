"""Config files as frozen dataclasses."""

from swin_dense.config.common import OptimizerConfig, TrainingConfig
from swin_dense.config.detection import (
    AugmentationConfig,
    DataConfig,
    DetectionConfig,
    DetectionInferenceConfig,
    ScheduleConfig,
    SplitConfig,
)
from swin_dense.config.parsing import Config, config_text, load_config
from swin_dense.config.segmentation import (
    InferenceConfig,
    LabelledSplitConfig,
    PolynomialScheduleConfig,
    SegmentationAugmentationConfig,
    SegmentationConfig,
    SegmentationDataConfig,
)

__all__ = [
    "AugmentationConfig",
    "Config",
    "DataConfig",
    "DetectionConfig",
    "DetectionInferenceConfig",
    "InferenceConfig",
    "LabelledSplitConfig",
    "OptimizerConfig",
    "PolynomialScheduleConfig",
    "ScheduleConfig",
    "SegmentationAugmentationConfig",
    "SegmentationConfig",
    "SegmentationDataConfig",
    "SplitConfig",
    "TrainingConfig",
    "config_text",
    "load_config",
]
