"""A training from the command line: what it leaves, how it resumes, and how it stops."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from helpers.commands import REPOSITORY, answer, assert_same_bits, command, figures, losses, stopped, tool
from swin_dense.data.shapes import write_shapes
from swin_dense.errors import TrainingError
from swin_dense.metrics import ENGINES
from swin_dense.training import DetectorModule

CONFIG = REPOSITORY / "configs" / "demo" / "mask-rcnn_swin-nano_shapes.py"
SHORT = [
    "data.batch_size=2",
    "data.eval_batch_size=2",
    "data.num_workers=0",
    "augmentation.short_sides=[64, 96]",
    "augmentation.max_long_side=96",
    "augmentation.test_short_side=64",
    "augmentation.test_max_long_side=64",
    "schedule.epochs=2",
    "schedule.milestones=[1]",
    "schedule.warmup_steps=2",
    "training.validate_every=1",
    "training.log_every=1",
    "training.pictures=2",
    "model.test_cfg.rcnn.score_thr=0.0",
    "model.backbone.drop_path_rate=0.2",
]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=8, val=5, size=96)


def arguments(shapes: Path, run: Path, *overrides: str) -> list[str]:
    sets = [word for override in (*SHORT, *overrides) for word in ("--set", override)]
    return ["train", str(CONFIG), "--data", str(shapes), "--run", str(run), *sets]


@pytest.fixture(scope="module")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert command(*arguments(shapes, run)) == 0
    return run


def test_runs_are_compared_on_one_page(finished: Path, tmp_path: Path) -> None:
    other = shutil.copytree(finished, tmp_path / "other")
    config = (other / "config.py").read_text()
    (other / "config.py").write_text(config.replace("'seed': 0", "'seed': 7").replace("seed=0", "seed=7"))
    assert command("report", str(finished), str(other), "--output", str(tmp_path / "page.html"), "--device", "cpu") == 0
    page = (tmp_path / "page.html").read_text()
    for said in (
        "settings that differ",
        "training.seed",
        "validation segm AP",
        "whole: Errors",
        "other: Images",
        "torch",
    ):
        assert said in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_run_folder_holds_all_that_is_promised(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    expected = {"config.py", "run.json", "metrics.csv", "last.ckpt", "best.ckpt", "weights.safetensors", "curves.png"}
    assert expected <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert len(list((finished / "pictures").glob("*.png"))) == 2
    facts = json.loads((finished / "run.json").read_text())
    assert facts["seed"] == 0
    assert facts["versions"]["torch"] == version("torch")
    assert len(losses(finished)) == 8
    assert all(np.isfinite(float(value)) for row in losses(finished) for value in row)


def test_evaluate_gives_the_score_of_the_best_validation(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "predictions.json"
    weights = str(finished / "weights.safetensors")
    config = str(finished / "config.py")
    scores = answer(capsys, "evaluate", config, "--weights", weights, "--predictions", str(written), "--json")
    assert scores["bbox"]["AP"] == pytest.approx(max(figures(finished, "val/bbox_AP")), abs=1e-7)
    truth = _value(config, "data.root") + "/annotations/instances_val.json"
    for engine in ENGINES:
        again = answer(capsys, "evaluate", "--gt", truth, "--predictions", str(written), "--engine", engine, "--json")
        assert {kind: values["AP"] for kind, values in again.items()} == pytest.approx(
            {kind: values["AP"] for kind, values in scores.items()}, abs=1e-12
        )


def _value(config: str, key: str) -> str:
    from swin_dense.config import load_config

    value: Any = load_config(config)
    for name in key.split("."):
        value = getattr(value, name)
    return str(value)


def test_predict_writes_pictures_and_coco_results(
    finished: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = shapes / "images" / "val"
    weights = ["--weights", str(finished / "weights.safetensors")]
    for batch_size in ("1", "3"):
        output = str(tmp_path / batch_size)
        assert (
            command(
                "predict",
                str(finished / "config.py"),
                str(images),
                *weights,
                "--output",
                output,
                "--batch-size",
                batch_size,
            )
            == 0
        )
    rows, batched = (json.loads((tmp_path / size / "predictions.json").read_text()) for size in ("1", "3"))
    assert len(rows) == len(batched) > 0
    assert {row["category"] for row in rows} <= {"circle", "square", "triangle", "star", "ring", "cross"}
    for row in rows:
        width, height = Image.open(row["file_name"]).size
        assert row["segmentation"]["size"] == [height, width]
        assert 0 <= row["bbox"][0] <= row["bbox"][0] + row["bbox"][2] <= width
    assert len(list((tmp_path / "1").glob("*.png"))) == 5


@pytest.mark.parametrize(
    ("last_batch", "overrides"),
    [(1, ()), (3, ()), (1, ("training.accumulate=2", "training.ema_decay=0.9", "data.num_workers=1"))],
    ids=["in the middle of an epoch", "where a validation is due", "with an average"],
)
def test_an_interrupted_run_resumes_to_the_same_bits(
    finished: Path,
    shapes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    last_batch: int,
    overrides: tuple[str, ...],
) -> None:
    whole = finished
    if overrides:
        whole = tmp_path / "whole"
        assert command(*arguments(shapes, whole, *overrides)) == 0
    interrupted = tmp_path / "interrupted"
    with stopped(DetectorModule, lambda module, batch: (module.current_epoch, batch) == (0, last_batch)):
        assert command(*arguments(shapes, interrupted, *overrides)) == 130
    assert f"--resume {interrupted}" in capsys.readouterr().err
    assert not (interrupted / "best.ckpt").exists()
    assert command("train", "--resume", str(interrupted)) == 0
    assert figures(interrupted, "val/bbox_AP") == figures(whole, "val/bbox_AP")
    assert_same_bits(interrupted, whole)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("score_metric='segm_APl'", ""),
        ("score_metric='segm_mAP'", 'error: score_metric: no metric "segm_mAP"; did you mean "segm_AP"?'),
        ("training.validate_every=0", "training.validate_every must be at least 1, got 0"),
    ],
)
def test_a_training_that_could_not_tell_its_best_weights_never_starts(
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    override: str,
    message: str,
) -> None:
    def fit(*_: object, **__: object) -> None:
        raise TrainingError("it starts")

    monkeypatch.setattr(Trainer, "fit", fit)
    assert command(*arguments(shapes, tmp_path / "run", override)) == 2
    assert (message or "error: it starts") in capsys.readouterr().err
    assert (tmp_path / "run").exists() == (not message)


def test_a_schedule_may_be_shortened_to_what_is_done_and_no_further(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = losses(finished)
    assert command("train", "--resume", str(finished), "--set", "schedule.epochs=1") == 2
    assert f"schedule.epochs=1: {finished} has been trained for 2 epochs already" in capsys.readouterr().err
    assert command("train", "--resume", str(finished), "--set", "schedule.epochs=2") == 0
    assert losses(finished) == rows
    said = "nothing was left to train: all 2 epochs are done; --set schedule.epochs=... trains longer"
    assert said in capsys.readouterr().err


def test_what_a_run_is_resumed_with_holds_when_it_is_resumed_again_wherever_it_lies(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = Path(shutil.copytree(finished, tmp_path / "a run"))
    changes = ("--set", "schedule.epochs=3", "--set", "optimizer.learning_rate=1e-9")
    with stopped(DetectorModule, lambda module, batch: (module.current_epoch, batch) == (2, 1)):
        assert command("train", "--resume", str(moved), *changes) == 130
    (advice,) = (line for line in capsys.readouterr().err.splitlines() if "continue with: swin-dense" in line)
    assert command(*shlex.split(advice.partition("swin-dense ")[2])) == 0
    assert losses(moved)[:8] == losses(finished)
    assert len(losses(moved)) == 12
    assert max(float(row[-1]) for row in losses(moved)[8:]) <= 1e-9
    with (moved / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["epoch"]) for row in rows] == [(str(step), str(step // 4)) for step in range(12)]
    assert sum(bool(row["val/bbox_AP"]) for row in rows) == 3
    before, history = (json.loads((run / "run.json").read_text())["resumed"] for run in (finished, moved))
    changed, resumed_as_advised = history[len(before) :]
    assert changed["changes"] == {"schedule.epochs": [2, 3], "optimizer.learning_rate": [0.001, 1e-9]}
    assert resumed_as_advised["changes"] == {}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.backbone.variant=swin_tiny", "model.backbone.variant was 'swin_nano', is 'swin_tiny'"),
        ("optimizer.layer_decay=0.9", "optimizer.layer_decay was None, is 0.9"),
    ],
)
def test_what_a_run_cannot_go_on_with_is_named(
    finished: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    before = (finished / "config.py").read_bytes()
    assert command("train", "--resume", str(finished), "--set", override) == 2
    assert message in capsys.readouterr().err
    assert (finished / "config.py").read_bytes() == before


def test_a_run_folder_is_never_overwritten(finished: Path, shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "weights.safetensors").read_bytes()
    assert command(*arguments(shapes, finished)) == 2
    assert "holds an earlier run" in capsys.readouterr().err
    assert (finished / "weights.safetensors").read_bytes() == before


def test_what_cannot_start_leaves_no_run_behind_and_what_never_saved_is_not_to_be_resumed(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run = tmp_path / "run"
    assert command(*arguments(shapes, run, "training.precision='16'")) == 2
    assert "training.precision is 16" in capsys.readouterr().err
    assert not run.exists()


def test_a_run_that_ran_out_of_memory_in_its_first_step_makes_place_for_the_next(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(DetectorModule, "training_step", step)
        assert command(*arguments(shapes, run)) == 2
    assert "ran out of memory with data.batch_size=2: lower it" in capsys.readouterr().err
    assert command(*arguments(shapes, run, "training.validate_every=9"), "--trainer", "limit_train_batches=1") == 0
    assert len(losses(run)) == 2
    (run / "last.ckpt").unlink()
    assert command("train", "--resume", str(run)) == 2
    assert "there is nothing to resume" in capsys.readouterr().err


def test_a_loss_that_explodes_stops_with_the_images(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*arguments(shapes, tmp_path / "run", "optimizer.learning_rate=1e30", "schedule.warmup_steps=0")) == 2
    message = capsys.readouterr().err
    assert "the loss is not finite" in message
    assert ".jpg" in message
    assert "Traceback" not in message


def test_weights_of_other_classes_are_refused_and_ignored_on_request(
    finished: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few"
    (few / "annotations").mkdir(parents=True)
    (few / "images").symlink_to(shapes / "images")
    for split in ("train", "val"):
        content = json.loads((shapes / "annotations" / f"instances_{split}.json").read_text())
        content["categories"] = content["categories"][:3]
        content["annotations"] = [one for one in content["annotations"] if one["category_id"] <= 3]
        (few / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    start = ["--weights", str(finished / "weights.safetensors"), "--set", "schedule.epochs=1"]
    assert command(*arguments(few, tmp_path / "run"), *start) == 2
    assert "fc_cls" in capsys.readouterr().err
    heads = [word for name in ("fc_cls", "fc_reg") for word in ("--ignore", f"roi_head.bbox_head.{name}")]
    heads += ["--ignore", "roi_head.mask_head.conv_logits"]
    assert command(*arguments(few, tmp_path / "run"), *start, *heads) == 0
    assert command("evaluate", str(finished / "config.py"), "--data", str(few), *start[:2]) == 2
    assert "trained on circle" in capsys.readouterr().err


def test_two_processes_train_together_and_score_as_one(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning starts the second one; the tests of other tasks start both."""
    tool(*arguments(shapes, tmp_path / "run", "schedule.epochs=1"), "--devices", "2")
    score = ["evaluate", str(tmp_path / "run"), "--json", "--devices"]
    together = json.loads(tool(*score, "2"))
    assert command(*score, "1") == 0
    assert together == json.loads(capsys.readouterr().out)
