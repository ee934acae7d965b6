"""Fixtures that several rooms share."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

if os.environ.get("SWIN_DENSE_TEST_DEVICES", "cpu") == "cpu":
    # Tests mean the CPU, whose results are the same to the bit; "all" tests operators on a GPU, too.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuses names of tests that are others in each process: what runs them side by side could not tell them apart."""
    changing = [item.nodeid for item in items if re.search(r"\bat 0x[0-9a-f]{6}", item.nodeid)]
    if changing:
        raise pytest.UsageError(f"name the cases of {changing[0]} (ids=...): they hold the address of an object")


@pytest.fixture(autouse=True)
def no_apple_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests mean the CPU on a Mac, too."""
    if os.environ.get("SWIN_DENSE_TEST_DEVICES", "cpu") == "cpu":
        monkeypatch.setattr("torch.backends.mps.is_available", cache(lambda: False))  # cached, as torch's own is


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the small real data sets; without it tests skip, except in continuous integration, where they fail."""
    return _needed("SWIN_DENSE_TEST_DATA", "data")


@pytest.fixture(scope="session")
def shared_faults() -> Path:
    """Folder of small inputs that failed once; likewise."""
    return _needed("SWIN_DENSE_TEST_FAULTS", "faults")


def _needed(variable: str, name: str) -> Path:
    folder = Path(os.environ.get(variable, REPOSITORY.parent / "shared" / name))
    if not folder.is_dir():
        reason = f"no test data at {folder}; set {variable} to its folder"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
