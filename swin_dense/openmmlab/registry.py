"""Makes the parts of mmdet and mmseg available, and our backbone among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from typing import Any

from swin_dense.backbones import SwinTransformer, create_backbone
from swin_dense.errors import InstallationError
from swin_dense.openmmlab.install import install

BACKBONE = "SwinDense"
"""The name of our backbone in a model dict: `dict(type="SwinDense", variant="swin_tiny", ...)`."""

HEADS = {
    "BiFPN": "bifpn",
    "CondConvMaskHead": "condconv_masks",
    "GlobalAttention": "global_attention",
    "RepPointsV2Head": "reppoints_v2",
    "ForegroundFocalLoss": "reppoints_v2_loss",
    "InclusiveGIoULoss": "reppoints_v2_loss",
}
"""Necks, heads and losses that mmdet lacks, and the file of each in `heads`; imported when a model asks for one."""

install()  # here already: a process that unpickles a model imports this module before mmdet or mmseg


@lru_cache(maxsize=1)
def mmdet_models() -> Any:
    """`mmdet.registry.MODELS` with every part of mmdet, our backbone, necks and heads."""
    _require_opencv()
    from mmdet.registry import MODELS

    import_module("mmdet.models")  # which fills the registry
    for name, place in HEADS.items():
        MODELS.register_module(name=name, module=_builder(name, place))
    MODELS.register_module(name=BACKBONE, module=_backbone)
    return MODELS


@lru_cache(maxsize=1)
def mmseg_models() -> Any:
    """`mmseg.registry.MODELS` with every part of mmseg and our backbone; mmdet's parts are found as `mmdet.NAME`."""
    _require_opencv()
    from mmseg.registry import MODELS

    import_module("mmseg.models")  # which fills the registry
    MODELS.register_module(name=BACKBONE, module=_backbone)
    return MODELS


@contextmanager
def quiet_logger() -> Iterator[None]:
    """Holds back what mmengine logs below a warning: two lines for every parameter that it initialises."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(level)


def _require_opencv() -> None:
    """Refuses an OpenCV that mmcv could not import either."""
    try:
        if not hasattr(import_module("cv2"), "imread"):  # uninstalling one of two OpenCVs leaves an empty package
            raise ImportError("its files are missing")
    except ImportError as error:
        raise InstallationError(
            f"OpenCV does not import ({error}); its headless build needs no system libraries: pip uninstall -y "
            "opencv-python opencv-python-headless && pip install opencv-python-headless"
        ) from error


def _builder(name: str, place: str) -> Callable[..., Any]:
    def build(*args: Any, **options: Any) -> Any:
        return getattr(import_module(f"swin_dense.openmmlab.heads.{place}"), name)(*args, **options)

    return build


def _backbone(variant: str, **options: Any) -> SwinTransformer:
    return create_backbone(variant, **options)
