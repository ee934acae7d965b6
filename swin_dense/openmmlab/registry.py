"""Makes mmdet and mmseg available: our ops where mmcv looks for its compiled ones, our backbone in the registries.

`mmcv.ops` imports the extension module `mmcv._ext` and checks there, by name, every function that it wraps. mmcv-lite
and onedl-mmcv come without the extension, so `mmcv.ops`, and with it mmdet and mmsegmentation, would not import.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import FrameType, ModuleType
from typing import Any, NoReturn

from torch import Tensor, nn

from swin_dense.backbones import SwinTransformer, create_backbone
from swin_dense.errors import InstallationError, UnsupportedOpError
from swin_dense.files import home_not_needed
from swin_dense.ops import OPS

EXTENSION = "mmcv._ext"


class TorchvisionExtension(MetaPathFinder, Loader):
    """Finds and fills `mmcv._ext` where there is no compiled one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Claims `mmcv._ext` alone."""
        return ModuleSpec(fullname, self, origin="torchvision") if fullname == EXTENSION else None

    def exec_module(self, module: ModuleType) -> None:
        """Fills the module with our ops, and with one that raises for every other name."""
        vars(module).update(OPS)
        vars(module)["__getattr__"] = _unsupported_op


_EXTENSION_FINDER = TorchvisionExtension()


def install() -> None:
    """Lets `mmcv.ops` import without compiled ops, served by torchvision's kernels.

    Call it before the first import of `mmcv.ops`, mmdet or mmsegmentation; it imports none of them. Calling it again
    changes nothing. Python asks our finder last, so a compiled mmcv keeps its own ops. An op that we do not serve
    raises `UnsupportedOpError` when it is called, not when it is imported.
    """
    if _EXTENSION_FINDER not in sys.meta_path:
        sys.meta_path.append(_EXTENSION_FINDER)
    if not hasattr(pkgutil, "find_loader"):  # Python 3.14 is without; mmengine and mmcv look for `mmcv._ext` by it
        vars(pkgutil)["find_loader"] = find_spec


def _unsupported_op(name: str) -> Callable[..., NoReturn]:
    if name.startswith("_"):
        raise AttributeError(f"module '{EXTENSION}' has no attribute '{name}'")

    def op(*args: object, **kwargs: object) -> NoReturn:
        raise UnsupportedOpError(
            f"mmcv's compiled op '{name}', which {_caller()} needs, is not served without a compiler: "
            "choose a model that does not use it, or install an mmcv that was compiled for this version of torch"
        )

    return op


def _caller() -> str:
    """The layer whose forward pass calls the op, with its place in the model; else the function that does."""
    frame: FrameType | None = sys._getframe(2)
    function, layers = sys._getframe(2).f_code.co_name, []
    while frame is not None:
        layer = frame.f_locals.get("self")
        if isinstance(layer, nn.Module):
            layers.append(layer)
        frame = frame.f_back
    if not layers:
        return f"{function}()"
    places = [place for place, layer in layers[-1].named_modules() if layer is layers[0]]
    return f"the layer {type(layers[0]).__name__}" + (f" ({places[0]})" if any(places) else "")


BACKBONE = "SwinDense"
"""The name of our backbone in a model dict: `dict(type="SwinDense", variant="swin_tiny", ...)`."""

HEADS = {
    "BiFPN": "necks",
    "CondConvMaskHead": "condconv_masks",
    "GlobalAttention": "necks",
    "RepPointsV2Head": "reppoints_v2",
    "ForegroundFocalLoss": "reppoints_v2_loss",
    "InclusiveGIoULoss": "reppoints_v2_loss",
}
"""Necks, heads and losses that mmdet lacks, and the file of each in `heads`; imported when a model asks for one."""

install()  # here already: a process that unpickles a model imports this module before mmdet or mmseg


@lru_cache(maxsize=1)
def mmdet_models() -> Any:
    """`mmdet.registry.MODELS` with every part of mmdet, our backbone, necks and heads."""
    models = _filled("mmdet")
    from mmengine.structures import instance_data

    # InstanceData is indexed by tensors on a CPU or on CUDA alone: everything is refused on Apple's and other GPUs.
    vars(instance_data)["IndexType"] = instance_data.IndexType | Tensor
    for name, place in HEADS.items():
        models.register_module(name=name, module=_builder(name, place))
    models.register_module(name=BACKBONE, module=_backbone)
    return models


@lru_cache(maxsize=1)
def mmseg_models() -> Any:
    """`mmseg.registry.MODELS` with every part of mmseg and our backbone; mmdet's parts are found as `mmdet.NAME`."""
    models = _filled("mmseg")
    models.register_module(name=BACKBONE, module=_backbone)
    return models


def _filled(package: str) -> Any:
    """The registry of a package's models once all of them are imported; or what is broken of what they import."""
    _require_opencv()
    try:
        with home_not_needed():
            import_module(f"{package}.models")
            return import_module(f"{package}.registry").MODELS
    except Exception as error:  # transformers, for one, raises errors of many kinds while it is imported
        reason, *_ = str(error).splitlines() or [""]
        raise InstallationError(
            f"{package} does not import: {type(error).__name__}: {reason}; swin-dense doctor says what is broken"
        ) from error


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
