"""Lightning modules, their optimizers and callbacks."""

from swin_dense.training.detector import DetectorModule

__all__ = ["DetectorModule"]
