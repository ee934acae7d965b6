"""Lightning modules, their optimizers and callbacks."""

from swin_dense.training.classification import ClassifierModule
from swin_dense.training.modules import DetectorModule, SegmenterModule
from swin_dense.training.video import VideoClassifierModule

__all__ = ["ClassifierModule", "DetectorModule", "SegmenterModule", "VideoClassifierModule"]
