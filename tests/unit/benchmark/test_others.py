"""The benchmarks of data, metrics and export, on the CPU at a tiny size; their contestants live in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from helpers.commands import command
from swin_dense.benchmark import data, export, metric
from swin_dense.errors import BenchmarkError


class LocalContestant:
    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        self.target = make(*arguments)

    def call(self, method: str) -> Any:
        return getattr(self.target, method)()

    def close(self) -> None:
        self.target = None


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (data, export, metric):
        monkeypatch.setattr(module, "RemoteContestant", LocalContestant)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def measured(capsys: pytest.CaptureFixture[str], words: str) -> dict[str, Any]:
    assert command("benchmark", *words.split(), "--json") == 0
    out = capsys.readouterr().out
    record: dict[str, Any] = json.loads(out[out.index("{\n") :])  # other libraries print, too
    assert record["benchmark"] == words.split()[0] and record["device"]["type"] == "cpu"
    return record


def test_pipelines_make_the_same_samples_and_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    record = measured(capsys, "data --images 2 --repeats 2")
    assert list(record["contestants"]) == ["ours", "mmdet"] and record["images"] == 2 and record["speedup"] > 0
    for one in record["contestants"].values():
        assert one["lowest_ms"] <= one["median_ms"] <= one["highest_ms"] and one["peak_memory_gib"] > 0


def test_metrics_agree_and_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    record = measured(capsys, "metric --images 4 --detections 6 --label-maps 3 --repeats 1")
    assert {"ours", "pycocotools", "faster-coco-eval"} <= record["coco"]["seconds"].keys()
    assert list(record["mean_iou"]["seconds"]) == ["ours", "mmseg"] and record["mean_iou"]["best_peer"] == "mmseg"
    assert record["coco"]["speedup"] > 0


def test_exports_hold_the_same_maps_and_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    words = "export --device cpu --variant swin_nano --images 3 --batch-size 2 --workers 0 --repeats 1"
    record = measured(capsys, words)
    assert list(record["contestants"]) == ["ours", "timm"] and record["speedup"] > 0
    assert all(one["images_per_second"] > 0 for one in record["contestants"].values())


def test_nothing_is_timed_where_results_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric, "AGREE", -1.0)
    with pytest.raises(BenchmarkError, match="nothing was timed"):
        metric.benchmark_metric(metric.MetricSettings(images=2, detections=2, label_maps=0, repeats=1))
