"""The ops are in place before any test module imports mmcv.ops, mmdet or mmseg."""

from swin_dense.openmmlab.registry import install

install()
