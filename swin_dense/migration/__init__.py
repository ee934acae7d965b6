"""Config files of mmdet 3 and mmseg 1 as configs of ours: what they mean is kept, and what cannot be is listed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from swin_dense.config import Config, config_text, load_config
from swin_dense.errors import ConfigError
from swin_dense.files import atomic_write, home_not_needed, is_there, written
from swin_dense.migration.data import detection_data, segmentation_data
from swin_dense.migration.models import convert_model
from swin_dense.migration.training import training_settings

SCOPES = {"mmdet": "detection", "mmseg": "segmentation"}
"""The task of each library, by the `default_scope` of its configs."""

NO_IMAGES = {
    "proposal_file": "trains on proposals that another model has made",
    "language_model": "learns from captions",
    "teacher_ckpt": "learns from another model",
    "teacher_config": "learns from another model",
}
"""Keys of models and data that take more than images and what is annotated in them."""


@dataclass(frozen=True)
class Conversion:
    """What became of a config of mmdet or mmseg.

    Attributes:
        config: Ours; it was checked, and its model was built.
        left_out: What has no counterpart, a line each: its key, and what is done instead.
        weights: Where the weights come from that the training starts from, by key; they are not fetched.
    """

    config: Config
    left_out: tuple[str, ...]
    weights: Mapping[str, str]


def convert_config(source: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Conversion:
    """Translates a config file of mmdet or mmseg: model, optimizer, schedule, data, augmentation.

    A Swin Transformer of theirs becomes our backbone, unless it has an option that ours lacks; every other part of the
    model stays as it is.

    Args:
        source: A config file of mmdet 3 or mmseg 1, or one that the installed package brings along, such as
            "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco". It is executed, with its bases, as mmengine does it: only
            convert files that you trust.
        output: File to write; none is written without it.

    Returns:
        Our config and what was left out. The file holds both.

    Raises:
        ConfigError: The file cannot be read, or is for what ours cannot do: captions, pairs of images, stuff.

    Example:
        >>> from swin_dense.migration import convert_config
        >>> done = convert_config("mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco")
        >>> done.config.model["backbone"]["variant"], done.config.schedule.epochs, done.config.optimizer.learning_rate
        ('swin_tiny', 12, 0.0001)
        >>> done.left_out
        ()
    """
    values = _read(source)
    task = SCOPES.get(str(values.get("default_scope")))
    if task is None or not isinstance(values.get("model"), Mapping):
        raise ConfigError(f"{source}: no config of a model of mmdet 3 or mmseg 1 (default_scope names the library)")
    _check(values, source)
    left_out: list[str] = []
    model, weights = convert_model(values)
    if isinstance(values.get("load_from"), str):
        weights["load_from"] = values["load_from"]
    settings, repeats = (detection_data if task == "detection" else segmentation_data)(values, model, left_out)
    settings |= {"task": task, "model": model}
    settings |= training_settings(values, task, Path(source).stem, repeats, left_out)
    config = load_config(settings)
    _build(config, source)
    if output is not None:
        _write(Path(output), config_text(config), str(source), left_out, weights)
    return Conversion(config, tuple(left_out), weights)


def _read(source: str | os.PathLike[str]) -> dict[str, Any]:
    with home_not_needed():
        from mmengine.config import Config as ConfigFile

    package, scope, name = str(source).partition("::")
    path = Path(source)
    if scope:
        found = find_spec(package) if package in SCOPES else None
        if found is None or found.origin is None:
            raise ConfigError(f"{source}: {package} is not installed, or not one of {', '.join(SCOPES)}")
        path = Path(found.origin).parent / ".mim" / "configs" / f"{name.removesuffix('.py')}.py"
    if not (is_there(path) and path.is_file()):
        raise ConfigError(f"{source}: there is no config file {path}")
    try:
        loaded = ConfigFile.fromfile(str(path), lazy_import=False, import_custom_modules=False)
    except Exception as error:  # a config is a program: anything can go wrong in it
        raise ConfigError(f"{source}: cannot be read: {type(error).__name__}: {error}") from error
    return dict(loaded.to_dict())


def _check(values: Mapping[str, Any], source: object) -> None:
    named = (values.get("custom_imports") or {}).get("imports", ())
    modules = [named] if isinstance(named, str) else list(named)
    if foreign := [name for name in modules if name.partition(".")[0] not in SCOPES]:
        raise ConfigError(f"{source}: needs modules of its own ({', '.join(foreign)}), which are not imported")
    for key, reason in NO_IMAGES.items():
        if any(_has(values.get(part), key) for part in ("model", "train_dataloader")):
            raise ConfigError(f"{source}: {reason} ({key}), which ours cannot do")


def _has(value: Any, key: str) -> bool:
    if isinstance(value, Mapping):
        return bool(value.get(key)) or any(_has(item, key) for item in value.values())
    return isinstance(value, list | tuple) and any(_has(item, key) for item in value)


def _build(config: Config, source: object) -> None:
    """Builds the model, as shapes alone: a config that is written is one that works."""
    from swin_dense.openmmlab import detection, segmentation

    build = detection.build_network if config.task == "detection" else segmentation.build_network
    try:
        with torch.device("meta"):
            build(config.model, 80)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def _write(output: Path, text: str, source: str, left_out: list[str], weights: Mapping[str, str]) -> None:
    if output.exists():
        raise ConfigError(f"{output} exists; name another file")
    name = Path(source.partition("::")[2] or source).stem
    remarks = [f"# Weights: {key} is {where}; they are given when it is trained." for key, where in weights.items()]
    remarks += [f"# Left out: {line}" for line in left_out]
    with written(output), atomic_write(output) as path:
        path.write_text("\n".join([f'"""{name}, converted."""', "", *remarks, "", text]), encoding="utf-8")
