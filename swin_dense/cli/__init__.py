"""The command line. Each command imports what it needs when it runs, so that `--help` and errors come at once.

Results go to stdout, everything else to stderr; with `--json`, stdout holds one JSON object. An error that a user can
fix is one message on stderr and exit status 2; `--debug` shows its traceback and its cause before it.
"""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from swin_dense.cli import benchmark, checks, configs, exports, inference, training, weights
from swin_dense.cli.app import app
from swin_dense.errors import SwinDenseError, TrainingInterruptedError, on_command_line

# The modules are named because importing them registers their commands.
__all__ = ["app", "benchmark", "checks", "configs", "exports", "inference", "main", "training", "weights"]

OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory", re.IGNORECASE)
"""What CUDA, MPS and the CPU say; torch has no common class for it."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits.

    Args:
        arguments: Those after the program's name; None takes them from the command line.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or os.environ.get("SWIN_DENSE_DEBUG", "0") not in ("", "0")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")  # class and file names may be in any script
    try:
        try:
            with on_command_line():
                app(args=[word for word in words if word != "--debug"])
        finally:
            _flush_output()
    except BrokenPipeError:  # `swin-dense configs | head`
        sys.exit(1)
    except Exception as error:
        if not isinstance(error, SwinDenseError | OSError | MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        if debug:
            traceback.print_exception(error)
        if isinstance(error, TrainingInterruptedError):
            print(error, file=sys.stderr)
            sys.exit(130)
        print(f"error: {_message(error)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _flush_output() -> None:
    """Writes what is left now, while an error can still be caught; at exit Python would print a traceback."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _message(error: Exception) -> str:
    """One of ours as it is; what the system refuses with the file, or what to do, and where to see more."""
    if isinstance(error, SwinDenseError):
        return str(error)
    first, *_ = str(error).splitlines() or [type(error).__name__]
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
        return f"out of memory: {first}; take smaller images or batches (--debug shows where)"
    assert isinstance(error, OSError)
    what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    return f"{what} (--debug shows where)"
