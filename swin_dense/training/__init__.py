"""Lightning modules, their optimizers and callbacks."""

from swin_dense.training.modules import DetectorModule, SegmenterModule

__all__ = ["DetectorModule", "SegmenterModule"]
