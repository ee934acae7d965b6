"""Lightning modules, their optimizers and callbacks."""

from swin_dense.training.classification import ClassifierModule, VideoClassifierModule
from swin_dense.training.modules import DetectorModule, SegmenterModule

__all__ = ["ClassifierModule", "DetectorModule", "SegmenterModule", "VideoClassifierModule"]
