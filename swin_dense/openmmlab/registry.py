"""Makes mmdet's parts available, and our backbone among them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from swin_dense.backbones import SwinTransformer, create_backbone
from swin_dense.openmmlab.install import install

BACKBONE = "SwinDense"
"""The name of our backbone in a model dict: `dict(type="SwinDense", variant="swin_tiny", ...)`."""


@lru_cache(maxsize=1)
def mmdet_models() -> Any:
    """Mmdet's model registry with our backbone in it.

    Returns:
        `mmdet.registry.MODELS`; every part that mmdet ships is registered.
    """
    install()
    import mmdet.models  # noqa: F401  (importing it fills the registry)
    from mmdet.registry import MODELS
    from mmengine.logging import MMLogger

    # It would print two lines for every parameter that it initialises.
    MMLogger.get_current_instance().setLevel("WARNING")
    MODELS.register_module(name=BACKBONE, module=_backbone)
    return MODELS


def _backbone(variant: str, **options: Any) -> SwinTransformer:
    return create_backbone(variant, **options)
