"""Makes the parts of mmdet and mmseg available, and our backbone among them."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

from swin_dense.backbones import SwinTransformer, create_backbone
from swin_dense.errors import InstallationError
from swin_dense.openmmlab.install import install

BACKBONE = "SwinDense"
"""The name of our backbone in a model dict: `dict(type="SwinDense", variant="swin_tiny", ...)`."""


@lru_cache(maxsize=1)
def mmdet_models() -> Any:
    """Mmdet's model registry with our backbone, necks and heads in it.

    Returns:
        `mmdet.registry.MODELS`; every part that mmdet ships is registered.
    """
    _prepare()
    from mmdet.registry import MODELS

    import_module("mmdet.models")  # which fills the registry
    import_module("swin_dense.openmmlab.heads")  # which adds ours
    return _with_our_backbone(MODELS)


@lru_cache(maxsize=1)
def mmseg_models() -> Any:
    """Mmseg's model registry with our backbone in it.

    Returns:
        `mmseg.registry.MODELS`; every part that mmseg ships is registered, and mmdet's are found as `mmdet.NAME`.
    """
    _prepare()
    from mmseg.registry import MODELS

    import_module("mmseg.models")  # which fills the registry
    return _with_our_backbone(MODELS)


def _prepare() -> None:
    """Puts our ops in place, and refuses an OpenCV that mmcv could not import either."""
    install()
    try:
        if not hasattr(import_module("cv2"), "imread"):  # uninstalling one of two OpenCVs leaves an empty package
            raise ImportError("its files are missing")
    except ImportError as error:
        raise InstallationError(
            f"OpenCV does not import ({error}); its headless build needs no system libraries: pip uninstall -y "
            "opencv-python opencv-python-headless && pip install opencv-python-headless"
        ) from error


def _with_our_backbone(models: Any) -> Any:
    from mmengine.logging import MMLogger

    # It would print two lines for every parameter that it initialises.
    MMLogger.get_current_instance().setLevel("WARNING")
    models.register_module(name=BACKBONE, module=_backbone)
    return models


def _backbone(variant: str, **options: Any) -> SwinTransformer:
    return create_backbone(variant, **options)
