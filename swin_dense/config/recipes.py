"""Finds config files: those of the user by their path, those that ship with the package by their name."""

from __future__ import annotations

import ast
import difflib
import os
from functools import cache
from pathlib import Path

from swin_dense.errors import ConfigError

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
        return path
    name, recipes = path.as_posix().removesuffix(".py"), _recipes_by_name()
    if name in recipes:
        return recipes[name]
    if os.path.isdir(path):
        raise ConfigError(f"{path} is a folder; name a config file, for instance {path / 'config.py'}")
    near = difflib.get_close_matches(name, recipes, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "swin-dense configs lists the recipes"
    raise ConfigError(f"{path}: no such config file, and no recipe of that name; {hint}")


def is_config(text: str) -> bool:
    """Whether a text that may be a config or a backbone variant is a config."""
    return text.endswith(".py") or text in _recipes_by_name()


def _recipes_by_name() -> dict[str, Path]:
    return {name: path for key, path in list_recipes().items() for name in (key, path.stem)}


@cache
def list_recipes() -> dict[str, Path]:
    """Every recipe that ships with the package: "folder/name" to its file, sorted by folder and name."""
    folder = next((one for one in _FOLDERS if one.is_dir()), _FOLDERS[0])
    files = sorted(path for path in folder.glob("*/*.py") if not path.parent.name.startswith("_"))
    return {f"{path.parent.name}/{path.stem}": path for path in files}


def describe_recipe(path: Path) -> str:
    """The first line of a recipe's docstring; the recipe is not executed."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
