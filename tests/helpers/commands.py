"""The command line, in this process or in one of its own, and what a training has written."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swin_dense.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]


def command(*words: str) -> int:
    """Exit status of a command."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert isinstance(stop.value.code, int)
    return stop.value.code


def tool(*words: str) -> str:
    """What a script under `tools` prints; it has to succeed."""
    program = [sys.executable, str(REPOSITORY / "tools" / f"{words[0]}.py"), *words[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures(run: Path, name: str) -> list[float]:
    """Every value of one figure in a run's table."""
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def losses(run: Path) -> list[tuple[str, ...]]:
    """Every training figure of every step, as written."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith("train/")]
    return [(row["step"], *(row[name] for name in names)) for row in rows if row["train/loss"]]
