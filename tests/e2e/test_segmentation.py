"""Semantic segmentation from the command line: train, resume, evaluate, predict, on one process and on two."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from helpers.commands import REPOSITORY, answer, assert_same_bits, command, figures, losses, stopped
from helpers.ranks import together
from swin_dense.data.shapes import SEGMENTATION_CLASS_NAMES, write_shapes
from swin_dense.training import SegmenterModule

CONFIG = REPOSITORY / "configs" / "demo" / "upernet_swin-nano_shapes.py"
SHORT = [
    "data.batch_size=2",
    "data.eval_batch_size=2",
    "data.num_workers=0",
    "augmentation.scale=[96, 96]",
    "augmentation.crop_size=[64, 64]",
    "model.data_preprocessor.size=[64, 64]",
    "schedule.steps=9",
    "schedule.warmup_steps=2",
    "training.validate_every=3",
    "training.log_every=1",
    "training.pictures=2",
]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=8, val=5, size=96) / "ade20k"


def arguments(shapes: Path, run: Path, *overrides: str) -> list[str]:
    sets = [word for override in (*SHORT, *overrides) for word in ("--set", override)]
    return ["train", str(CONFIG), "--data", str(shapes), "--run", str(run), *sets]


@pytest.fixture(scope="module")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert command(*arguments(shapes, run)) == 0
    return run


def test_steps_are_counted_through_all_epochs(finished: Path) -> None:
    """Eight images in batches of two are four steps an epoch; nine steps are asked for, a validation every three."""
    assert [int(step) for step, *_ in losses(finished)] == list(range(9))
    assert len(figures(finished, "val/mIoU")) == 3
    assert len(list((finished / "pictures").glob("*.png"))) == 2
    rates = figures(finished, "train/learning_rate")
    assert rates == pytest.approx(
        [1e-3 * (1 - step / 9) * (1 if step > 1 else 0.01 + 0.495 * step) for step in range(9)]
    )


def test_evaluate_gives_the_score_of_the_best_validation_and_files_that_score_the_same(
    finished: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = [str(finished / "config.py"), "--weights", str(finished / "weights.safetensors")]
    scores = answer(capsys, "evaluate", *model, "--predictions", str(tmp_path / "labels"), "--json")
    assert scores["mIoU"] == pytest.approx(max(figures(finished, "val/mIoU")), rel=1e-6)
    assert list(scores["per_class"]) == list(SEGMENTATION_CLASS_NAMES)
    truth = shapes / "annotations" / "validation"
    # The shapes' labels are 1..K; a prediction is always a class, so none is 0.
    assert answer(capsys, "evaluate", "--gt", str(truth), "--predictions", str(tmp_path / "labels"), "--json") == scores


def test_predict_writes_label_maps_overlays_and_probabilities(finished: Path, shapes: Path, tmp_path: Path) -> None:
    model = [str(finished / "config.py"), str(shapes / "images" / "validation")]
    model += ["--weights", str(finished / "weights.safetensors"), "--probabilities"]
    for batch_size in ("1", "3"):
        assert command("predict", *model, "--output", str(tmp_path / batch_size), "--batch-size", batch_size) == 0
    rows = json.loads((tmp_path / "1" / "predictions.json").read_text())
    assert len(rows) == 5
    for row in rows:
        labels = np.asarray(Image.open(tmp_path / "1" / row["labels"]))
        batched = np.asarray(Image.open(tmp_path / "3" / row["labels"]))
        assert labels.shape == Image.open(row["file_name"]).size[::-1]
        assert (labels == batched).mean() > 0.999  # ties may fall either way
        assert {SEGMENTATION_CLASS_NAMES[label - 1] for label in np.unique(labels)} == set(row["classes"])
        assert sum(row["classes"].values()) == pytest.approx(1)
        name = Path(row["labels"]).stem
        probabilities = load_file(tmp_path / "1" / "probabilities" / f"{name}.safetensors")["probabilities"].float()
        assert torch.allclose(probabilities.sum(0), torch.ones(labels.shape), atol=5e-3)
        assert (probabilities.argmax(0).numpy() + 1 == labels).mean() > 0.98  # half precision makes ties
        assert (tmp_path / "1" / "overlays" / f"{name}.png").is_file()


def test_predict_goes_on_after_an_image_that_cannot_be_read_and_draws_over_none(
    finished: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, output = tmp_path / "overlays", tmp_path / "out"
    shutil.copytree(shapes / "images" / "validation", photos)
    damaged = sorted(photos.iterdir())[1]
    damaged.write_text("<html>")
    model = [str(finished / "config.py"), str(photos), "--weights", str(finished / "weights.safetensors")]
    assert command("predict", *model, "--output", str(output), "--batch-size", "3") == 2
    assert f"{damaged}: not an image" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/*.png")}
    assert len(before) == 8
    damaged.unlink()
    assert command("predict", *model, "--output", str(output)) == 0
    assert [row["image_id"] for row in json.loads((output / "predictions.json").read_text())] == [0, 1, 2, 3]
    assert {path: path.stat().st_mtime_ns for path in output.glob("*/*.png")} == before
    assert command("predict", *model, "--output", str(tmp_path)) == 2
    assert "lies where pictures are written" in capsys.readouterr().err


def test_test_time_augmentation_and_windows_are_options(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = [str(finished / "config.py"), "--weights", str(finished / "weights.safetensors"), "--json"]
    augmented = ("--set", "inference.scales=[0.5, 1.0]", "--set", "inference.flip=True")
    windows = ("--set", "inference.crop_size=[64, 64]", "--set", "inference.stride=[48, 48]")
    found = []
    for options in ((), augmented, windows):
        assert command("evaluate", *model, *options) == 0
        found.append(json.loads(capsys.readouterr().out)["aAcc"])
    assert len(set(found)) == 3


@pytest.mark.parametrize("last_step", [4, 5], ids=["between validations", "where a validation is due"])
def test_an_interrupted_run_resumes_to_the_same_bits(
    finished: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], last_step: int
) -> None:
    interrupted = tmp_path / "interrupted"
    with stopped(SegmenterModule, lambda module, _: module.global_step == last_step):
        assert command(*arguments(shapes, interrupted)) == 130
    assert f"--resume {interrupted}" in capsys.readouterr().err
    assert command("train", "--resume", str(interrupted)) == 0
    assert figures(interrupted, "val/mIoU") == figures(finished, "val/mIoU")
    assert_same_bits(interrupted, finished)


def test_two_processes_name_what_no_head_reads(shapes: Path, tmp_path: Path) -> None:
    head = {"type": "FCNHead", "channels": 16, "num_convs": 1, "num_classes": 6}
    heads = [f"model.{name}={head | {'in_index': i}}" for name, i in (("decode_head", 3), ("auxiliary_head", 2))]
    ((status, _, said),) = together([*arguments(shapes, tmp_path / "run", *heads), "--devices", "2"])
    assert status == 2 and "Traceback" not in said
    assert "nothing is learnt by backbone.norm0, backbone.norm1, which several processes" in said
    assert "model.backbone.out_indices" in said


def test_two_processes_train_together_and_score_as_one(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = [*arguments(shapes, tmp_path / "run", "schedule.steps=2", "training.accumulate=3"), "--devices", "2"]
    score = ["evaluate", str(tmp_path / "run"), "--json", "--devices"]
    trained, scored = together(train, [*score, "2"])
    assert (trained.status, scored.status) == (0, 0), trained.err + scored.err
    assert command(*score, "1") == 0
    assert json.loads(scored.out) == json.loads(capsys.readouterr().out)
