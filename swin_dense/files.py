"""Writes a file whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Lets a file be written beside its place and moved there at the end: a reader sees the old file or the new one.

    Args:
        path: The file; its folder is made if it does not exist.

    Yields:
        The path to write to, of the same suffix. If the block raises, what is there is removed and `path` stays as it
        was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{uuid4().hex}{path.suffix}")  # short, however long the name is
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
