"""The command line. Each command imports what it needs when it runs, so that `--help` and errors come at once.

Results go to stdout, everything else to stderr; with `--json`, stdout holds one JSON object. Errors that a user can
mend are printed without a traceback, and the exit status is 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from swin_dense.cli import checks, configs, convert, deploy, features, inference, training, weights
from swin_dense.cli.app import app
from swin_dense.errors import SwinDenseError, TrainingInterruptedError

# The modules are named because importing them registers their commands.
__all__ = ["app", "checks", "configs", "convert", "deploy", "features", "inference", "main", "training", "weights"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits.

    Args:
        arguments: Those after the program's name; None takes them from the command line.
    """
    try:
        app(args=None if arguments is None else list(arguments), standalone_mode=True)
    except TrainingInterruptedError as stop:
        print(stop, file=sys.stderr)
        sys.exit(130)
    except SwinDenseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
