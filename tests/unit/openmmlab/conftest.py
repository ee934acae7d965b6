"""The ops are in place before any test module imports mmcv.ops or mmdet."""

from swin_dense.openmmlab.registry import install

install()
