"""Config files: found by path or by name, and turned into frozen dataclasses, so that a wrong key is an error at once.

A config file is an mmengine Python file with at most one level of `_base_`. Its `task` chooses the schema, by default
that of detection. Everything but `model` is fixed by it; `model` is a model dict as mmdet or mmseg writes it.
"""

from __future__ import annotations

import ast
import difflib
import keyword
import math
import os
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib import import_module
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from swin_dense.errors import ConfigError, nearest, option
from swin_dense.files import home_not_needed

if TYPE_CHECKING:
    from swin_dense.config.classification import ClassificationConfig
    from swin_dense.config.detection import DetectionConfig
    from swin_dense.config.segmentation import SegmentationConfig
    from swin_dense.config.video import VideoConfig

    Config: TypeAlias = DetectionConfig | SegmentationConfig | ClassificationConfig | VideoConfig
else:
    Config = Any  # a whole config, of any task

SUFFIXES = (".py", ".yml", ".yaml", ".json")
"""Of config files, as mmengine reads them."""

SHOWN = 5
"""Run folders that a message names."""

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
"""Where the recipes lie in an installed wheel, and in a clone."""


def find_config(name_or_path: str | os.PathLike[str]) -> Path:
    """The config file with a path, or the recipe with a name.

    A file comes first. A recipe's name is that of its file, with or without `.py`, with or without its folder.

    Args:
        name_or_path: For instance "mine.py", "mask-rcnn_swin-t_fpn_1x_coco" or "demo/upernet_swin-nano_shapes".

    Raises:
        ConfigError: There is neither; names the recipes that are nearest.

    Example:
        >>> from swin_dense.config import find_config
        >>> find_config("mask-rcnn_swin-t_fpn_1x_coco").name
        'mask-rcnn_swin-t_fpn_1x_coco.py'
    """
    path = Path(name_or_path)
    if os.path.isfile(path):  # unlike Path.is_file it answers for names that no file system takes, too
        if path.suffix.lower() not in SUFFIXES:
            run = (
                f"the run folder that it lies in, {path.parent}" if _is_run(path.parent) else "a config (.py) or a run"
            )
            raise ConfigError(f"{path} is no config file; name {run}, and weights with {option('weights', 'FILE')}")
        return path
    name = path.as_posix().removesuffix(".py")
    recipes = {called: path for key, path in list_recipes().items() for called in (key, path.stem)}
    if name in recipes:
        return recipes[name]
    if os.path.isdir(path):
        raise ConfigError(f"{path} is a folder; name a config file, for instance {path / 'config.py'}")
    own = f"{path}.py"
    near = [own] if os.path.isfile(own) else difflib.get_close_matches(name, recipes, n=3)
    in_folder = len(path.parts) > 1 and path.parent.name not in {key.partition("/")[0] for key in list_recipes()}
    if path.suffix != ".py" and near != [own] and (in_folder or not near and _runs_in(path.parent)):
        raise _missing_run(path)
    _check_permission(path)
    hint = f"did you mean {' or '.join(near)}?" if near else "swin-dense configs lists the recipes"
    raise ConfigError(f"{path}: no such config file, and no recipe of that name; {hint}")


def config_of_run(folder: Path) -> Path:
    """The config file of a run folder."""
    if not os.path.exists(folder):
        raise _missing_run(folder)
    path = folder / "config.py"
    if not path.is_file():
        raise ConfigError(f"{folder} is no run folder: it holds no config.py{_named_runs(folder, folder.name)}")
    return path


def _check_permission(path: Path) -> None:
    """Raises `ConfigError` for what is not there as far as one may see."""
    try:
        path.stat()
    except PermissionError as error:
        raise ConfigError(f"{path} cannot be looked up ({error.strerror}); ask whoever owns its folder") from error
    except (OSError, ValueError):
        return


def _missing_run(path: Path) -> ConfigError:
    """What to say of a run folder that is not there."""
    _check_permission(path)
    folder = path.parent.absolute()
    there = f"no folder in {folder} is a run" if os.path.isdir(folder) else f"there is no folder {folder}"
    return ConfigError(f"{path}: no such run folder{_named_runs(path.parent, path.name) or f'; {there}'}")


def _named_runs(folder: Path, near: str) -> str:
    """The end of a message that names the runs in a folder, the nearest to a name first; "" where there are none."""
    runs = _runs_in(folder)
    first = difflib.get_close_matches(near, runs, n=SHOWN, cutoff=0)
    more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    return f"; the runs in {folder.absolute()} are {', '.join(first)}{more}" if runs else ""


def _runs_in(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if _is_run(one)) if os.path.isdir(folder) else []


def _is_run(folder: Path) -> bool:
    return os.path.isfile(folder / "config.py") and os.path.isfile(folder / "run.json")


@cache
def list_recipes() -> dict[str, Path]:
    """Every recipe that ships with the package: "folder/name" to its file, sorted by folder and name."""
    folder = next((one for one in _FOLDERS if one.is_dir()), _FOLDERS[0])
    files = sorted(path for path in folder.glob("*/*.py") if not path.parent.name.startswith("_"))
    return {f"{path.parent.name}/{path.stem}": path for path in files}


def describe_recipe(path: Path) -> str:
    """The first line of a recipe's docstring; the recipe is not executed."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


TASKS = {
    "detection": "DetectionConfig",
    "segmentation": "SegmentationConfig",
    "classification": "ClassificationConfig",
    "video": "VideoConfig",
}
"""The schema of each `task`: a class of `swin_dense/config/TASK.py`, which is imported for a config of that task."""

LARGEST = 2**31 - 1
"""Integers beyond it are refused: no count, size or seed of a config is larger, and kernels overflow."""

DEEPEST = 30
"""Lists and dicts of a model dict that may lie within one another."""


def load_config(
    source: str | os.PathLike[str] | Mapping[str, Any] | Config, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Config:
    """Reads and checks a config.

    Args:
        source: Name of a recipe, Python file, dict of settings, or a config that is to be changed. A file is executed:
            only use config files that you trust.
        overrides: Dotted keys and their new values: a mapping, or texts as the command line takes them, such as
            "data.batch_size=4", whose values are Python literals or plain text.

    Returns:
        The config.

    Raises:
        ConfigError: There is no such file or recipe, or a key is unknown, missing, of the wrong type or out of range.

    Example:
        >>> from swin_dense.config import load_config
        >>> config = load_config("mask-rcnn_swin-t_fpn_1x_coco", {"data.root": "data/mine", "data.batch_size": 4})
        >>> config.data.batch_size, config.schedule.epochs
        (4, 12)
    """
    where, values = _read(source)
    if isinstance(overrides, str):
        raise ConfigError(f'overrides must be a list of key=value texts or a mapping, not the text "{overrides}"')
    changes = overrides.items() if isinstance(overrides, Mapping) else map(_parse_override, overrides)
    for key, value in changes:
        _override(values, key, value, where)
    task = values.get("task", "detection")
    if not isinstance(task, str) or task not in TASKS:
        raise ConfigError(f"{where}: unknown task {reprlib.repr(task)}; {nearest(str(task), TASKS)}")
    schema = getattr(import_module(f"swin_dense.config.{task}"), TASKS[task])
    return typing.cast(Config, _parse_dataclass(schema, values, where, ""))


def settings_of(config: Any) -> dict[str, Any]:
    """A config as dicts and lists that may be changed; objects in it, such as callbacks, are the same objects."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {name: settings_of(one) if is_dataclass(one) else _copied(one) for name, one in values.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    return type(value)(map(_copied, value)) if isinstance(value, (list, tuple)) else value


def config_text(config: Config) -> str:
    """The config as a config file that `load_config` reads back to the same value."""
    values = settings_of(config)
    values["model"] = values.pop("model")  # the longest part comes last
    return "".join(f"{key} = {_python(value)}\n" for key, value in values.items())


def _python(value: Any, indent: str = "") -> str:
    """A plain value as Python, dicts as `dict(key=value)`, one item a line where a line would be long."""
    inner = f"{indent}    "
    if isinstance(value, dict) and all(key.isidentifier() and not keyword.iskeyword(key) for key in value):
        opening, closing = "dict(", ")"
        items = [f"{key}={_python(item, inner)}" for key, item in value.items()]
    elif isinstance(value, dict):
        opening, closing = "{", "}"
        items = [f"{key!r}: {_python(item, inner)}" for key, item in value.items()]
    elif (
        isinstance(value, tuple) and len(value) > 20 and type(first := value[0]) is int and value == _row(first, value)
    ):
        return f"tuple(range({first}, {first + len(value)}))"
    elif isinstance(value, (list, tuple)):
        opening, closing = "[]" if isinstance(value, list) else "()"
        items = [_python(item, inner) for item in value]
    else:
        return repr(value)
    line = ", ".join(items) + ("," if isinstance(value, tuple) and len(items) == 1 else "")
    if len(line) <= 90 and "\n" not in line:
        return f"{opening}{line}{closing}"
    return opening + "".join(f"\n{inner}{item}," for item in items) + f"\n{indent}{closing}"


def _row(first: int, values: tuple[Any, ...]) -> tuple[int, ...]:
    """As many consecutive integers as there are values."""
    return tuple(range(first, first + len(values)))


def _read(source: object) -> tuple[str, dict[str, Any]]:
    """The settings of any source, free to be changed, and what to call it in messages."""
    if isinstance(source, Mapping):
        return "the dict", _plain(source, "the dict", "")
    if type(source).__name__ in TASKS.values() and is_dataclass(source):
        return "the config", settings_of(source)
    if not isinstance(source, (str, os.PathLike)):
        raise ConfigError(f"a config is a name, file, dict or dataclass of swin_dense.config, not {_short(source)}")
    path = find_config(source)
    with home_not_needed():
        from mmengine.config import Config as ConfigFile

    try:
        loaded = ConfigFile.fromfile(str(path), lazy_import=False)
    except Exception as error:  # a config is a program: anything can go wrong in it
        raise ConfigError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error
    return os.fspath(source), loaded.to_dict()


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f'"{override}": write an override as key=value, for instance data.batch_size=4')
    try:
        return key, ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        if text.lstrip().startswith(("[", "(", "{")):
            raise ConfigError(f"{key}={reprlib.repr(text)} is not a Python value; put plain text in quotes") from error
        return key, text


def _override(values: dict[str, Any], key: Any, value: Any, source: str) -> None:
    where = f"{source}: override of {_short(key)}"
    if not isinstance(key, str):
        raise ConfigError(f"{where}: keys are texts, for instance data.batch_size")
    *parents, last = key.split(".")
    target: Any = values
    for depth, parent in enumerate(parents):
        if isinstance(target, list):
            child = target[_index(parent, target, where)]
        else:
            child = target.setdefault(parent, {}) if depth == 0 else target.get(parent)
        if not isinstance(child, (dict, list)):
            valid = f"; {nearest(parent, map(str, target))}" if isinstance(target, dict) else ""
            raise ConfigError(f'{where}: "{parent}" holds no keys{valid}')
        target = child
    target[_index(last, target, where) if isinstance(target, list) else last] = value


def _index(key: str, target: list[Any], where: str) -> int:
    if key not in map(str, range(len(target))):
        raise ConfigError(f"{where}: {_short(key)} is not an index of a list of {len(target)}")
    return int(key)


def _parse_dataclass(kind: type, value: Any, where: str, key: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {key} must be a dict of settings, not {_short(value)}")
    hints = typing.get_type_hints(kind)
    valid = {field.name: field for field in fields(kind)}
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in valid:
            inner = [f'"{prefix}{section}.{name}"' for section, hint in hints.items() if name in _keys(hint)]
            meant = f"did you mean {' or '.join(inner)}?" if inner else nearest(str(name), valid)
            raise ConfigError(f'{where}: unknown key "{prefix}{name}"; {meant}')
    for name, field in valid.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f'{where}: missing key "{prefix}{name}"')
    settings = {name: _parse(hints[name], item, where, f"{prefix}{name}") for name, item in value.items()}
    try:
        return kind(**settings)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _keys(kind: Any) -> set[str]:
    """The keys of a section; none of a value."""
    return {field.name for field in fields(kind)} if is_dataclass(kind) else set()


def _parse(kind: Any, value: Any, where: str, key: str) -> Any:
    """Checks `value` against a type annotation and converts it: dataclasses, tuples, optionals and plain types."""
    if is_dataclass(kind):
        return _parse_dataclass(typing.cast(type, kind), value, where, key)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _parse(next(argument for argument in arguments if argument is not type(None)), value, where, key)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: {key} must be a list, not {_short(value)}")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ConfigError(f"{where}: {key} must have {len(arguments)} values, not {len(value)}")
        return tuple(_parse(arguments[0], item, where, f"{key}.{i}") for i, item in enumerate(value))
    if kind is object:  # loggers, callbacks, and what the trainer takes may be objects, in Python
        if isinstance(value, (list, tuple)):
            return type(value)(_parse(object, item, where, f"{key}.{i}") for i, item in enumerate(value))
        return _plain(value, where, key) if isinstance(value, (str, Mapping, int, float)) else value
    if origin is dict and arguments[1] is object and isinstance(value, Mapping) and all(map(_is_text, value)):
        return {name: _parse(object, item, where, f"{key}.{name}") for name, item in value.items()}
    expected = origin or kind
    value = _plain(value, where, key)
    if expected is str and key.endswith("precision") and type(value) is int:
        return str(value)
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        raise ConfigError(f"{where}: {key} must be {expected.__name__}, not {_short(value)}")
    return value


def _plain(value: Any, where: str, key: str, depth: int = 0) -> Any:
    """A copy of a value in builtin types, which `config_text` can write; what they cannot hold is refused."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        number = int(value)
        if abs(number) > LARGEST:
            raise ConfigError(f"{where}: {key} must be between -{LARGEST} and {LARGEST}, got {_short(number)}")
        return number
    if isinstance(value, Real):
        if not math.isfinite(value):
            raise ConfigError(f"{where}: {key} must be finite, got {value}")
        return float(value)
    if isinstance(value, (str, os.PathLike)):
        text = str(value)
        if "\0" in text:
            raise ConfigError(f"{where}: {key} holds a null character")
        return text
    if depth > DEEPEST:
        raise ConfigError(f"{where}: {key} is nested more than {DEEPEST} deep")
    if isinstance(value, (list, tuple)):
        items = [_plain(item, where, f"{key}.{i}", depth + 1) for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        prefix = f"{key}." if key else ""
        return {name: _plain(item, where, f"{prefix}{name}", depth + 1) for name, item in value.items()}
    kinds = "numbers, texts, lists and dicts whose keys are texts"
    raise ConfigError(f"{where}: {key or 'a config'} must be made of {kinds}, not {_short(value)}")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _short(value: object) -> str:
    """A value as a message shows it: of huge ones, the beginning."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits
        return "an integer of thousands of digits"
