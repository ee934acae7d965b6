"""Reads a large annotation file in another process while this one imports what it needs, which takes as long."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swin_dense.errors import Finding

LARGE = 2**26
"""Bytes of a file, or of the zip file that it is in, from which on it is read ahead: it takes longer than the start of
a process."""

_PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; from swin_dense.coco.ahead import _send; _send(sys.argv[1])"

_readers: dict[Path, subprocess.Popen[bytes]] = {}


@contextmanager
def reading_ahead(path: Path | None) -> Iterator[None]:
    """Starts to read an annotation file, if it is large, for the `read_instances` that will ask for it."""
    file = None if path is None else next((one for one in (path, *path.parents) if os.path.isfile(one)), None)
    if path is None or file is None or os.path.getsize(file) < LARGE:
        yield
        return
    command = [sys.executable, "-c", _PROGRAM, str(path), *sys.path]
    nothing = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=nothing, stdout=subprocess.PIPE, stderr=nothing) as reader:
        _readers[path] = reader
        try:
            yield
        finally:
            _readers.pop(path, None)
            reader.kill()


def read_ahead(path: Path) -> tuple[dict[str, Any], list[Finding]] | None:
    """What `read_columns` has read of a file in another process; None where none was started, or it has failed.

    Whoever gets None reads the file itself, and meets the error. What is handed over is gone: a second call gets None.
    """
    reader = _readers.pop(path, None)
    if reader is None:
        return None
    assert reader.stdout is not None
    with reader.stdout:
        try:
            columns: tuple[dict[str, Any], list[Finding]] = pickle.load(reader.stdout)  # our own process wrote it
        except (EOFError, pickle.UnpicklingError):
            return None
    reader.wait()
    return columns


def _send(path: str) -> None:
    """What the other process does; it ends without a word, whatever stops it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from swin_dense.coco.columns import read_columns

    pickle.dump(read_columns(Path(path)), sys.stdout.buffer, protocol=5)
