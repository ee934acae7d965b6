"""Reads a config file into frozen dataclasses, so that a wrong key is an error before anything else happens.

A config is an mmengine Python file (with at most one level of `_base_`). Its `task` chooses the schema, by default that
of detection. Everything but `model` is fixed by it; `model` is a model dict as mmdet or mmseg writes it.
"""

from __future__ import annotations

import ast
import pprint
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from swin_dense.config.detection import DetectionConfig
from swin_dense.config.segmentation import SegmentationConfig
from swin_dense.errors import ConfigError, nearest

T = TypeVar("T")


Config = DetectionConfig | SegmentationConfig
"""What a config file becomes."""

TASKS: dict[str, type[Config]] = {"detection": DetectionConfig, "segmentation": SegmentationConfig}
"""The schema of each `task`."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads and checks a config file.

    Args:
        path: The Python file. It is executed: only use config files that you trust.
        overrides: `key=value` texts, the key dotted (`data.batch_size=4`), the value a Python literal or plain text.

    Returns:
        The config.

    Raises:
        ConfigError: The file cannot be read, or a key is unknown, missing, of the wrong type or out of range.
    """
    values = _read(Path(path))
    for override in overrides:
        _override(values, override, str(path))
    task = values.get("task", "detection")
    if task not in TASKS:
        raise ConfigError(f'{path}: unknown task "{task}"; {nearest(str(task), TASKS)}')
    return typing.cast(Config, _parse(TASKS[task], values, str(path), ""))


def config_text(config: Config) -> str:
    """The resolved config as a config file that `load_config` reads back to the same value."""
    return (
        "\n".join(f"{key} = {pprint.pformat(value, sort_dicts=False)}" for key, value in asdict(config).items()) + "\n"
    )


def _read(path: Path) -> dict[str, Any]:
    from mmengine.config import Config

    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    try:
        loaded = Config.fromfile(str(path), lazy_import=False)
    except Exception as error:  # a config is a program: anything can go wrong in it
        raise ConfigError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error
    return typing.cast(dict[str, Any], loaded.to_dict())


def _override(values: dict[str, Any], override: str, path: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f'"{override}": write an override as key=value, for instance data.batch_size=4')
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    *parents, last = key.split(".")
    target: Any = values
    for depth, parent in enumerate(parents):
        target = _child(target, parent, create=depth == 0, where=f'{path}: override "{override}"')
    if isinstance(target, list):
        target[_index(last, target, f'{path}: override "{override}"')] = value
    else:
        target[last] = value


def _child(target: Any, key: str, create: bool, where: str) -> Any:
    if isinstance(target, list):
        return target[_index(key, target, where)]
    child = target.setdefault(key, {}) if create else target.get(key)
    if not isinstance(child, (dict, list)):
        raise ConfigError(f'{where}: "{key}" holds no keys; {nearest(key, list(target))}')
    return child


def _index(key: str, target: list[Any], where: str) -> int:
    if not key.isdigit() or int(key) >= len(target):
        raise ConfigError(f'{where}: "{key}" is no position in a list of {len(target)}')
    return int(key)


def _parse(kind: Any, value: Any, path: str, key: str) -> Any:
    """Checks `value` against a type annotation and converts it: dataclasses, tuples, optionals and plain types."""
    if is_dataclass(kind):
        return _parse_dataclass(typing.cast(type, kind), value, path, key)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _parse(next(argument for argument in arguments if argument is not type(None)), value, path, key)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{path}: {key} must be a list, not {value!r}")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ConfigError(f"{path}: {key} must have {len(arguments)} values, not {len(value)}")
        return tuple(_parse(arguments[0], item, path, f"{key}.{i}") for i, item in enumerate(value))
    expected = origin or kind
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if expected is str and key.endswith("precision") and isinstance(value, int):
        return str(value)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise ConfigError(f"{path}: {key} must be {expected.__name__}, not {value!r}")
    return value


def _parse_dataclass(kind: type, value: Any, path: str, key: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: {key} must be a dict of settings, not {value!r}")
    hints = typing.get_type_hints(kind)
    valid = {field.name: field for field in fields(kind)}
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in valid:
            raise ConfigError(f'{path}: unknown key "{prefix}{name}"; {nearest(name, list(valid))}')
    for name, field in valid.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f'{path}: missing key "{prefix}{name}"')
    settings = {name: _parse(hints[name], item, path, f"{prefix}{name}") for name, item in value.items()}
    try:
        return kind(**settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
