"""The model dict of a config: a Swin Transformer becomes our backbone, and pretrained weights are only named."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from swin_dense.backbones import VARIANTS

OPTIONS = {
    "embed_dims": ("embed_dim", 96),
    "depths": ("depths", (2, 2, 6, 2)),
    "num_heads": ("num_heads", (3, 6, 12, 24)),
    "window_size": ("window_size", 7),
    "pretrain_img_size": ("pretrain_image_size", 224),
    "in_channels": ("in_channels", 3),
    "drop_path_rate": ("drop_path_rate", 0.1),
    "out_indices": ("out_indices", (0, 1, 2, 3)),
    "frozen_stages": ("frozen_stages", -1),
    "with_cp": ("activation_checkpointing", False),
    "use_abs_pos_embed": ("absolute_position_embedding", False),
}
"""Options of mmdet's and mmseg's `SwinTransformer`: what ours are called, and the defaults there."""

OURS = {
    "in_channels": 3,
    "drop_path_rate": 0.0,
    "out_indices": (0, 1, 2, 3),
    "frozen_stages": -1,
    "activation_checkpointing": False,
    "absolute_position_embedding": False,
}
"""Our defaults of options that no variant sets."""

FIXED = {
    "patch_size": 4,
    "mlp_ratio": 4,
    "qkv_bias": True,
    "qk_scale": None,
    "drop_rate": 0,
    "attn_drop_rate": 0,
    "patch_norm": True,
    "norm_cfg": "LN",
    "act_cfg": "GELU",
}
"""Options that ours does not have, and the values that every published model gives them."""

IGNORED = {"type", "init_cfg", "pretrained", "convert_weights"}


def convert_model(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The model dict for our configs, and where pretrained weights come from, by key."""
    model = copy.deepcopy(dict(values["model"]))
    if values.get("data_preprocessor") is not None:
        model.setdefault("data_preprocessor", copy.deepcopy(values["data_preprocessor"]))
    weights: dict[str, str] = {}
    _take_weights(model, "model", weights)
    _replace_norms(model)
    backbone = model.get("backbone")
    if isinstance(backbone, dict) and str(backbone.get("type")).rpartition(".")[2] == "SwinTransformer":
        model["backbone"] = our_backbone(backbone) or backbone
    return model, weights


def our_backbone(theirs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Our backbone with the options of mmdet's or mmseg's; None where it has one that ours lacks."""
    fixed = {**FIXED, "strides": (4, *[2] * (len(theirs.get("depths", OPTIONS["depths"][1])) - 1))}
    if any(name not in fixed and name not in OPTIONS and name not in IGNORED for name in theirs):
        return None
    if any(name in theirs and _plain(theirs[name]) != value for name, value in fixed.items()):
        return None
    options = {ours: _plain(theirs.get(name, default)) for name, (ours, default) in OPTIONS.items()}
    shape = {name: options.pop(name) for name in ("embed_dim", "depths", "num_heads", "window_size")}
    size = options.pop("pretrain_image_size")
    matching = {
        name: variant
        for name, variant in VARIANTS.items()
        if (variant.version, variant.mixing, len(variant.window)) == (1, "attention", 2)
        and all(getattr(variant, key) == value for key, value in shape.items())
    }
    variant = next(iter(matching), "swin_tiny")
    if not matching:
        options |= shape
    if options["absolute_position_embedding"] and VARIANTS[variant].pretrain_image_size != size:
        options["pretrain_image_size"] = size
    changed = {name: value for name, value in options.items() if OURS.get(name, ...) != value}
    return {"type": "SwinDense", "variant": variant, **changed}


def _plain(value: Any) -> Any:
    """A value that compares: lists as tuples, layers by their type."""
    if isinstance(value, Mapping):
        return value["type"] if value.get("requires_grad", True) and value.keys() <= {"type", "requires_grad"} else None
    return tuple(value) if isinstance(value, list | tuple) else value


def _replace_norms(part: Any) -> None:
    """PyTorch's synchronised batch norm for mmcv's, which only exists in a training on several devices."""
    for item in part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ():
        _replace_norms(item)
    if isinstance(part, dict) and part.get("type") == "MMSyncBN":
        part["type"] = "SyncBN"


def _take_weights(part: Any, key: str, weights: dict[str, str]) -> None:
    """Takes out what would fetch weights while a model is built."""
    if isinstance(part, list | tuple):
        for i, item in enumerate(part):
            _take_weights(item, f"{key}.{i}", weights)
    if not isinstance(part, dict):
        return
    init = part.get("init_cfg")
    if isinstance(init, Mapping) and (init.get("type") == "Pretrained" or "checkpoint" in init):  # PVT: no type
        weights[f"{key}.init_cfg"] = str(part.pop("init_cfg").get("checkpoint"))
    if isinstance(part.get("pretrained"), str):
        weights[f"{key}.pretrained"] = part["pretrained"]
    part.pop("pretrained", None)
    for name, value in part.items():
        _take_weights(value, f"{key}.{name}", weights)
