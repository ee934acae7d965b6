"""Lightning modules, their optimizers and callbacks."""

from swin_dense.training.detector import DetectorModule
from swin_dense.training.segmenter import SegmenterModule

__all__ = ["DetectorModule", "SegmenterModule"]
