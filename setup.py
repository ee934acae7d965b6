"""Which folders make up the package; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

RECIPES = {"swin_dense.configs": "configs"} | {
    f"swin_dense.configs.{folder.name}": f"configs/{folder.name}"
    for folder in Path("configs").iterdir()
    if folder.is_dir()
}
"""The recipes lie beside the package in a clone, and inside it once installed."""

setup(packages=[*find_packages(include=["swin_dense*"]), *RECIPES], package_dir=RECIPES)
