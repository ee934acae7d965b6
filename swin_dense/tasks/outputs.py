"""Makes sure, before the work, that its results can be written."""

from __future__ import annotations

import os
from pathlib import Path

from swin_dense.errors import ConfigError


def check_output_file(path: Path) -> None:
    """Refuses a file that cannot be written.

    Args:
        path: The file; neither it nor its folder need exist.

    Raises:
        ConfigError: It is a folder, or `check_output_folder` refuses the folder that it is to lie in.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file to write to")
    check_output_folder(path.parent)


def check_output_folder(path: Path) -> None:
    """Refuses a folder that cannot be written to.

    Args:
        path: The folder; it need not exist.

    Raises:
        ConfigError: It, or what it is to lie in, is a file or belongs to somebody else.
    """
    place = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not place.is_dir():
        raise ConfigError(f"{place} is a file; name a folder to write to")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"{place} may not be written to; name another folder")
