"""Segmenting a large image takes a part of the memory that its full-size logits would."""

from __future__ import annotations

import json
import sys

import pytest

from helpers.commands import tool


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from Linux's /proc")
def test_peak_memory_stays_below_the_logits_of_every_pixel() -> None:
    size = ("--classes", "100", "--height", "1024", "--width", "1024")
    runs = ("whole, bands", "slide, bands")
    measured = json.loads(tool("benchmarks/segmentation_memory", *size, "--only", *runs, "--json"))
    assert measured["full_size_logits_mb"] == 100 * 1024 * 1024 * 4 / 2**20
    assert [row["run"] for row in measured["runs"]] == list(runs)
    assert all(0 < row["peak_mb"] < measured["full_size_logits_mb"] / 2 for row in measured["runs"])
