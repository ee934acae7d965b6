"""What a call leaves in the process of its caller."""

from __future__ import annotations

import logging
import mmap
import os
import platform
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import swin_dense
from swin_dense.data.shapes import write_shapes
from swin_dense.isolation import isolated

SEGMENTER = "upernet_swin-nano_shapes"


def state() -> dict[str, Any]:
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "random": random.getstate(),
        "filters": list(warnings.filters),
        "levels": {one.name: one.level for one in loggers if isinstance(one, logging.Logger)},
        "signals": [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)],
        "settings": (
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(),
        ),
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs; levels of loggers that are new do not count."""
    known = {logger: after["levels"][logger] for logger in before["levels"]}
    return [name for name, value in {**after, "levels": known}.items() if value != before[name]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=2, val=1) / "ade20k"


@pytest.mark.parametrize("use", ["load", "predict", "features", "evaluate", "export_features", "train"])
def test_nothing_is_left_behind(use: str, root: Path, tmp_path: Path) -> None:
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    settings = {"data.num_workers": 0, "training.pictures": 1}
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # as the caller wants it
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = state()
        model = swin_dense.load(SEGMENTER, data=root, device="cpu")
        uses: dict[str, Callable[[], object]] = {
            "load": lambda: model,
            "predict": lambda: model.predict(image, probabilities=True),
            "features": lambda: model.features(image),
            "evaluate": lambda: model.evaluate(),
            "export_features": lambda: swin_dense.export_features(
                "swin_nano", root / "images", tmp_path / "features", random_weights=True, device="cpu"
            ),
            "train": lambda: swin_dense.train(
                SEGMENTER, data=root, run=tmp_path / "run", steps=1, batch_size=2, device="cpu", **settings
            ),
        }
        uses[use]()
        assert changed(before, state()) == []


def test_what_goes_wrong_inside_leaves_nothing_behind_either() -> None:
    before = state()
    with pytest.raises(ZeroDivisionError), isolated():
        torch.manual_seed(5)
        random.random()
        np.random.rand()
        warnings.simplefilter("ignore")
        logging.getLogger("swin_dense.isolation").setLevel(logging.CRITICAL)
        logging.root.setLevel(logging.CRITICAL)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise ZeroDivisionError
    assert changed(before, state()) == []


MEMORY = """
import sys, torch
from pathlib import Path
from swin_dense.isolation import keeping_freed_memory

def held():
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096 / 2**20

def use():
    [torch.ones(2**24) for _ in range(4)]

before = held()
use()
print(held() - before)
with keeping_freed_memory(torch.device(sys.argv[1])):
    use()
    print(held() - before)
print(held() - before)
use()
print(held() - before)
"""


ON_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")


@ON_GLIBC
@pytest.mark.parametrize(
    ("device", "setting", "is_kept"),
    [
        ("cpu", {}, True),
        ("meta", {}, False),
        ("cpu", {"MALLOC_MMAP_MAX_": "65536"}, False),
        ("cpu", {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"}, False),
    ],
)
def test_memory_is_kept_for_a_training_on_the_cpu_and_given_back_behind_it(
    device: str, setting: dict[str, str], is_kept: bool
) -> None:
    environment = {**os.environ, **setting}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, device], capture_output=True, text=True, check=True, env=environment
    )
    before, inside, behind, later = map(float, done.stdout.split())
    assert (inside > 200) == is_kept, "four tensors of 64 MiB"
    assert max(before, behind, later) < 100


FAULTS = """
import resource, torch
from swin_dense.isolation import keeping_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        block = torch.ones(2**22)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with keeping_freed_memory(torch.device("cpu")):
    pass
print(faults())
"""


@ON_GLIBC
def test_predictions_after_a_training_use_their_memory_again() -> None:
    """As they do before one, where glibc learns from the blocks that are freed."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    pages = 2**24 // mmap.PAGESIZE
    assert int(done.stdout) < 25 * pages, "half of the 50 blocks: some find their place taken by something small"
