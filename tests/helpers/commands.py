"""The command line, in this process or in one of its own, how a training is stopped, and what it has written."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swin_dense.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]


def command(*words: str) -> int:
    """Exit status of a command."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert isinstance(stop.value.code, int)
    return stop.value.code


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """What a command that succeeds prints as JSON."""
    assert command(*words) == 0
    return json.loads(capsys.readouterr().out)


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


@contextmanager
def stopped(module: type[Any], before: Callable[[Any, int], bool]) -> Iterator[None]:
    """Interrupts trainings as Ctrl-C does, at the step of which `before(module, batch_idx)` is true."""
    step = module.training_step

    def with_a_signal(self: Any, batch: Any, batch_idx: int) -> Any:
        if before(self, batch_idx):
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "training_step", with_a_signal)
        yield


def assert_same_bits(run: Path, other: Path) -> None:
    """Two runs have the same training figures and weights."""
    assert losses(run) == losses(other)
    first, second = (load_file(one / "weights.safetensors") for one in (run, other))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
