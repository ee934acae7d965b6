"""The benchmark of trainings, on the CPU at a tiny size."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from swin_dense.benchmark.photos import write_ade, write_coco
from swin_dense.benchmark.train import SAME_LOSS, Training, TrainSettings, benchmark_train
from swin_dense.tasks import task_of

NANO = "model.backbone.variant=swin_nano"
SMALL_DETECTOR = (
    NANO,
    "augmentation.short_sides=[64]",
    "augmentation.max_long_side=96",
    "model.train_cfg.rpn_proposal.max_per_img=32",
    "model.train_cfg.rcnn.sampler.num=8",
)
SMALL_SEGMENTER = (NANO, "augmentation.crop_size=(32,32)", "model.data_preprocessor.size=(32,32)")
QUICK = {"warm_up": 1, "steps": 2, "workers": 0, "images": 6}


@pytest.mark.parametrize(("recipe", "write"), [("mask-rcnn", write_coco), ("upernet", write_ade)])
def test_generated_data_passes_its_own_check(recipe: str, write: object, tmp_path: Path) -> None:
    assert callable(write)
    training = Training("ours", recipe, "32", str(write(tmp_path / "data", 2)), "cpu", TrainSettings(**QUICK))
    config = training.config()
    assert all(report.ok for report in task_of(config).check_data(config, lambda items, total: items).values())


def test_ours_and_mmdet_begin_with_the_same_loss(tmp_path: Path) -> None:
    settings = TrainSettings(**QUICK, changes=SMALL_DETECTOR)
    data = str(write_coco(tmp_path / "coco", 6))
    both = [
        Training(name, "mask-rcnn", "32", data, "cpu", settings, str(tmp_path / "w.pth")) for name in ("ours", "mmdet")
    ]
    both[0].save_weights()
    ours, theirs = (one.run() for one in both)
    assert ours["first_loss"] == pytest.approx(theirs["first_loss"], rel=SAME_LOSS)
    for one in (ours, theirs):
        assert one["steps"] == 2 and one["images_per_second"] > 0 and 0 <= one["waiting_for_data"] <= 1
        assert one["step_ms"]["lowest"] <= one["step_ms"]["median"] <= one["step_ms"]["highest"]


def test_a_segmenter_is_trained_from_batches_of_its_data(tmp_path: Path) -> None:
    settings = TrainSettings(**QUICK, changes=SMALL_SEGMENTER)
    result = Training("ours", "upernet", "32", str(write_ade(tmp_path / "ade", 6)), "cpu", settings).run()
    assert result["steps"] == 2 and torch.tensor(result["last_loss"]).isfinite()


def test_what_there_is_no_time_for_is_named() -> None:
    record = benchmark_train(TrainSettings(device="cpu", images=2, seconds_limit=0))
    assert [one["part"] for one in record["not_measured"]] == ["runs", "runs", "comparisons", "comparisons"]
    assert record["speedup"] == {}


def test_it_says_how_many_cores_there_are_and_reads_with_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers in ((1, 1), (4, 3), (16, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, count=cores: set(range(count)), raising=False)
        settings = TrainSettings(recipes=["upernet"], device="cpu", images=2, seconds_limit=0)
        assert benchmark_train(settings)["cores"] == cores
        assert Training("ours", "upernet", "32", "data", "cpu", settings).config().data.num_workers == workers
