"""From an OpenMMLab model dict to a network: what mmdet's and mmseg's dicts have in common.

A dict is completed with what the data set and the backbone determine (class count, widths of the maps), checked part by
part, and built by the library whose dict it is.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from swin_dense.errors import ConfigError, nearest, option
from swin_dense.openmmlab.registry import BACKBONE, quiet_logger

FIXED_CLASS_COUNT = ("rpn_head", "rpn", "semantic_head")
"""Heads whose `num_classes` is not the data set's: two classify objects and background, HTC's third one knows stuff."""

CLASS_COUNT_KEYS = ("num_classes", "num_things_classes")
"""Keys that hold the number of classes; panoptic heads call those that can be counted "things"."""

MASK_PARTS = ("mask_head", "panoptic_head", "loss_mask")
"""Keys that a model dict has exactly where the model finds masks."""

NESTED = (
    "backbone",
    "neck",
    "rpn_head",
    "roi_head",
    "bbox_head",
    "mask_head",
    "panoptic_head",
    "panoptic_fusion_head",
    "decode_head",
    "auxiliary_head",
    "data_preprocessor",
)
"""Keys whose `type` is checked before the library builds anything."""

SEGMENTATION_HEADS = ("decode_head", "auxiliary_head")
"""Heads that pick some of the maps with `in_index`, and state their widths as `in_channels`."""

COMPARED_CLASS_COUNTS = (3, 4)
"""Small ones, but larger than one or two classes, which some heads treat in a way of their own."""

BUILDING_ERRORS = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    RuntimeError,
)
"""What the libraries raise for a wrong model dict."""

CHATTER = (
    "``build_.*`` would be deprecated soon",
    "Default ``avg_non_ignore`` is False",
    "For binary segmentation, we suggest using",
    "DeprecationWarning: `num_anchors` is deprecated",
)
"""Warnings of the libraries about themselves, about the defaults of every recipe, and for what we do not support."""


def build_model(model: Mapping[str, Any], num_classes: int, registry: Any) -> Any:
    """The network that a model dict describes, an mmengine `BaseModel` with initialised weights.

    The class count is filled in, and the widths of our backbone's maps too where the neck, or a segmentation head on
    the maps themselves, leaves `in_channels` out. Synchronised batch norms stay what they are where there is an
    accelerator: they synchronise between several processes and are plain ones in a single process. On CPUs alone they
    become plain ones, as PyTorch's refuse to train there. Inside `torch.device("meta")` it has shapes alone. `registry`
    is `mmdet_models()` or `mmseg_models()`; what a library raises becomes the cause of a ConfigError.
    """
    from mmengine.config import ConfigDict
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import DefaultScope

    parts = copy.deepcopy(dict(model))
    if for_shapes := torch.empty(0).is_meta:  # PyTorch 2.6 names another default device there
        parts = _with_equal_weights(parts)
    if not _set_class_count(parts, num_classes):
        raise ConfigError('model: no head has "num_classes"; set it to any value, the data set\'s is filled in')
    _check_panoptic(parts)
    _refuse_downloads(parts, "model")
    _match_channel_order(parts)
    _check_types(parts, registry, "model")
    _fill_in_channels(parts, registry)
    try:
        with DefaultScope.overwrite_default_scope(registry.scope), quiet_logger(), warnings.catch_warnings():
            for message in CHATTER:
                warnings.filterwarnings("ignore", message)
            if for_shapes:
                with _KnownNumbers():
                    network = registry.build(ConfigDict(parts)).to("meta")
            else:
                network = registry.build(ConfigDict(parts))
                network.init_weights()
    except BUILDING_ERRORS as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"model: {registry.scope} cannot build it: {reason}") from error
    return network if torch.cuda.is_available() else revert_sync_batchnorm(network)


class _KnownNumbers(TorchFunctionMode):
    """Rows of numbers on the CPU: of transformers' drop path rates, which they read while they are built."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        return function(*args, **({"device": "cpu"} | options if function is torch.linspace else options))


def _set_class_count(model: Any, num_classes: int) -> int:
    """Sets `num_classes` in every head, and returns in how many places."""
    if isinstance(model, list | tuple):
        return sum(_set_class_count(item, num_classes) for item in model)
    if not isinstance(model, dict):
        return 0
    places = 0
    for key, value in model.items():
        if key in CLASS_COUNT_KEYS:
            model[key] = num_classes
            places += 1
        elif key not in FIXED_CLASS_COUNT:
            places += _set_class_count(value, num_classes)
    if places and isinstance(model.get("loss_cls"), dict):
        _set_class_weights(model["loss_cls"], num_classes)
    if places:
        for key, loss in _dicts(model, "loss_decode", "model"):
            _check_class_weights(f"model: {key.removeprefix('model.')}", loss, num_classes)
    return places


def _set_class_weights(loss: dict[str, Any], num_classes: int) -> None:
    """A list of weights, one per class and one for "no object", gets the length that the data set asks for."""
    weights = loss.get("class_weight")
    if not isinstance(weights, list | tuple) or len(weights) == num_classes + 1:
        return
    *classes, no_object = weights
    if len(set(classes)) != 1:
        raise ConfigError(
            f"model: loss_cls.class_weight has {len(weights)} different weights, but there are {num_classes} classes "
            'and "no object"; give one for each'
        )
    loss["class_weight"] = [*classes[:1] * num_classes, no_object]


def _check_class_weights(key: str, loss: dict[str, Any], num_classes: int) -> None:
    """Refuses a list of weights of another data set's classes, which fails in the first step; equal ones are none."""
    weights = loss.get("class_weight")
    if not isinstance(weights, list | tuple) or len(weights) == num_classes:
        return
    if len(set(weights)) != 1:
        raise ConfigError(
            f"{key}.class_weight has {len(weights)} different weights, but there are {num_classes} classes; give one "
            "for each in their order, or None"
        )
    loss["class_weight"] = [weights[0]] * num_classes


def _check_panoptic(model: dict[str, Any]) -> None:
    """Our data has no stuff, and instances are what we score."""
    for name in ("panoptic_head", "panoptic_fusion_head"):
        part = model.get(name)
        if isinstance(part, dict) and part.get("num_stuff_classes"):
            raise ConfigError(
                f"model.{name}.num_stuff_classes is {part['num_stuff_classes']}, but COCO instances have no stuff; "
                "set it to 0"
            )
    if model.get("panoptic_fusion_head") is not None and not (model.get("test_cfg") or {}).get("instance_on"):
        raise ConfigError("model.test_cfg.instance_on must be True: nothing but instances is scored")


def has_masks(model: Any) -> bool:
    """Whether the model of an mmdet model dict, or a part of it, finds masks, and needs them to learn from."""
    if isinstance(model, list | tuple):
        return any(map(has_masks, model))
    return isinstance(model, Mapping) and any(
        (key in MASK_PARTS and value is not None) or has_masks(value) for key, value in model.items()
    )


def has_semantic_branch(model: Mapping[str, Any]) -> bool:
    """Whether the RoI head of an mmdet model dict also learns the class of every pixel, as HTC's does."""
    roi_head = model.get("roi_head")
    return isinstance(roi_head, Mapping) and roi_head.get("semantic_head") is not None


def class_dependent_tensors(
    model: Mapping[str, Any], build: Callable[[Mapping[str, Any], int], nn.Module]
) -> list[str]:
    """Names in the network's state dict of the tensors whose shape depends on the number of classes.

    Weights of other classes cannot fill them. The network is built by `build`, the `build_network` of its library, for
    two class counts, as shapes alone, and compared. So every model is served: classification layers, box regression and
    masks of each class, embeddings of labels that queries are made of.
    """
    with torch.device("meta"):
        fewer, more = (build(model, count).state_dict() for count in COMPARED_CLASS_COUNTS)
    return [name for name, tensor in fewer.items() if tensor.shape != more[name].shape]


def _with_equal_weights(model: Any) -> Any:
    """The same with one weight for all classes: lists of weights fit the number of classes of the data alone."""
    if isinstance(model, list | tuple):
        return type(model)([_with_equal_weights(item) for item in model])
    if not isinstance(model, Mapping):
        return model
    return {
        key: [1.0] * len(value)
        if key == "class_weight" and isinstance(value, list | tuple)
        else _with_equal_weights(value)
        for key, value in model.items()
    }


def _refuse_downloads(model: Any, key: str) -> None:
    if isinstance(model, list | tuple):
        for i, item in enumerate(model):
            _refuse_downloads(item, f"{key}.{i}")
    elif isinstance(model, dict):
        init = model.get("init_cfg")
        if isinstance(init, dict) and (init.get("type") == "Pretrained" or "checkpoint" in init):  # PVT: no type
            raise ConfigError(
                f"{key}.init_cfg: no weights are fetched while a model is built; set it to None and pass "
                f"{option('weights', 'FILE')}"
            )
        for name in ("pretrained", "teacher_ckpt"):
            if model.get(name):
                raise ConfigError(
                    f"{key}.{name}: no weights are fetched while a model is built; leave it out and pass "
                    f"{option('weights', 'FILE')}"
                )
        if model.get("language_model"):
            raise ConfigError(
                f"{key}.language_model: it would be fetched, and data here has no texts to find objects by; choose a "
                "detector of classes alone"
            )
        for name, value in model.items():
            _refuse_downloads(value, f"{key}.{name}")


def _match_channel_order(model: dict[str, Any]) -> None:
    """Our images are RGB and theirs are BGR, so exactly the configs that do not ask for a swap get one."""
    preprocessor = model.get("data_preprocessor")
    if not isinstance(preprocessor, dict):
        raise ConfigError("model: data_preprocessor is missing; it normalises the images")
    swaps = [preprocessor.pop(key, False) for key in ("bgr_to_rgb", "rgb_to_bgr")]
    preprocessor["rgb_to_bgr"] = not any(swaps)


def _check_types(model: dict[str, Any], registry: Any, key: str) -> None:
    """Names the nearest part where a `type` of the model itself is unknown; what is below it is the library's."""
    kind = model.get("type")
    is_name = isinstance(kind, str) and all(part.isidentifier() for part in kind.split("."))
    if isinstance(kind, str) and (not is_name or registry.get(kind) is None):
        raise ConfigError(f'{key}.type: {registry.scope} has no "{kind}"; {nearest(kind, list(registry.module_dict))}')
    for name in NESTED:
        for part_key, part in _dicts(model, name, key):
            _check_types(part, registry, part_key)


def _dicts(model: dict[str, Any], name: str, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The dict under a name, or those of a list under it, each with its key for messages."""
    value = model.get(name)
    if isinstance(value, dict):
        yield f"{key}.{name}", value
    elif isinstance(value, list | tuple):
        yield from ((f"{key}.{name}.{i}", part) for i, part in enumerate(value) if isinstance(part, dict))


def _fill_in_channels(model: dict[str, Any], registry: Any) -> None:
    backbone = model.get("backbone")
    if not isinstance(backbone, dict) or backbone.get("type") != BACKBONE:
        return
    with torch.device("meta"):
        built = registry.build(backbone)
    if len(built.window) == 3:
        raise ConfigError(
            f"model.backbone.variant: {backbone.get('variant')} is for videos; detectors and segmenters take images: "
            'name one for these, such as "swin_tiny"'
        )
    widths = [spec.channels for spec in built.feature_specs]
    if model.get("neck") is not None:
        for key, neck in list(_dicts(model, "neck", "model"))[:1]:
            _fill_in(neck, key, "the backbone's maps", widths)
        return
    for name in SEGMENTATION_HEADS:
        for key, head in _dicts(model, name, "model"):
            _fill_in_head(head, key, widths)
    for key, head in _dicts(model, "panoptic_head", "model"):
        _fill_in(head, key, "the backbone's maps", widths)


def _fill_in_head(head: dict[str, Any], key: str, widths: Sequence[int]) -> None:
    """A head reads the maps of `in_index`; without it, all maps if it states several widths, and else the last one."""
    if "in_index" not in head and "in_channels" not in head:
        return  # not every kind of head has them
    several = isinstance(head.get("in_channels"), list | tuple)
    index = head.get("in_index", range(len(widths)) if several else -1)
    try:
        expected: int | list[int] = widths[index] if isinstance(index, int) else [widths[i] for i in index]
    except (TypeError, IndexError) as error:
        raise ConfigError(f"{key}.in_index is {index}, but the backbone returns {len(widths)} maps") from error
    _fill_in(head, key, f"the backbone's maps {index}" if "in_index" in head else "the backbone's maps", expected)


def _fill_in(part: dict[str, Any], key: str, maps: str, expected: int | list[int]) -> None:
    given = part.setdefault("in_channels", expected)
    if (list(given) if isinstance(given, tuple) else given) != expected:
        raise ConfigError(
            f"{key}.in_channels is {given}, but {maps} have {expected} channels; leave the key out to have it filled in"
        )
