"""Writes a file whole or not at all, and makes sure, before the work, that results can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from uuid import uuid4

from swin_dense.errors import ConfigError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Lets a file be written beside its place, syncs it and moves it there: readers see the old file or the new one.

    The file gets the permissions of any new file in that folder, whatever the writer set. If the block raises, what was
    written is removed and `path` stays as it was.

    Args:
        path: The file; its folder is made if it does not exist.

    Yields:
        A path of the same suffix at which the block creates the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{uuid4().hex}{path.suffix}")  # short, however long the name is
    try:
        unfinished.touch()  # the umask can be seen without changing it for all threads only in a new file
        mode = unfinished.stat().st_mode
        unfinished.unlink()
        yield unfinished
        unfinished.chmod(mode)
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    with suppress(OSError):  # not every system can open a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def check_output_file(path: Path) -> None:
    """Refuses a file that cannot be written; neither it nor its folder need exist."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file to write to")
    check_output_folder(path.parent)


def check_output_folder(path: Path) -> None:
    """Refuses a folder that cannot be written to, or made: it, or what it is to lie in, is a file or another's."""
    place = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not place.is_dir():
        raise ConfigError(f"{place} is a file; name a folder to write to")
    try:  # permissions do not say it all: network file systems, containers and full disks have a word in it
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ConfigError(f"{place} cannot be written to ({error.strerror}); name another folder") from error
