"""Lightning modules, their optimizers and callbacks."""

from swin_dense.training.modules import ClassifierModule, DetectorModule, SegmenterModule, VideoClassifierModule

__all__ = ["ClassifierModule", "DetectorModule", "SegmenterModule", "VideoClassifierModule"]
