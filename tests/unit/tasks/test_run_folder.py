"""What a run records, and what it can be resumed with."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.plugins import AsyncCheckpointIO

from swin_dense.config import Config, load_config
from swin_dense.errors import ConfigError, OutputError, TrainingError
from swin_dense.tasks.run_folder import (
    changed_settings,
    check_resumable,
    check_same_classes,
    held,
    open_run,
    read_checkpoint,
    record_resume,
    write_weights,
)

NANO = "mask-rcnn_swin-nano_shapes"


def config(**changes: Any) -> Config:
    return load_config(NANO, {key.replace("__", "."): value for key, value in changes.items()})


def changes_to(other: Config) -> dict[str, tuple[Any, Any]]:
    return changed_settings(asdict(config()), asdict(other))


def test_what_changed_is_told_by_key() -> None:
    other = config(schedule__epochs=30, model__backbone__drop_path_rate=0.5, optimizer__betas=[0.8, 0.9])
    assert changes_to(other) == {
        "optimizer.betas": ((0.9, 0.999), (0.8, 0.9)),
        "schedule.epochs": (3, 30),
        "model.backbone.drop_path_rate": (0.0, 0.5),
    }
    assert changed_settings({"a": [1, 2]}, {"a": (1, 2)}) == {}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"model__backbone__variant": "swin_tiny"}, "model.backbone.variant was 'swin_nano', is 'swin_tiny'"),
        ({"model__backbone__frozen_stages": 1}, "model.backbone.frozen_stages was None, is 1"),
        ({"optimizer__layer_decay": 0.9}, "optimizer.layer_decay was None, is 0.9"),
        ({"training__ema_decay": 0.9}, "training.ema_decay was None, is 0.9"),
        ({"score_metric": "segm_AP"}, "score_metric was 'bbox_AP', is 'segm_AP'"),
    ],
)
def test_what_the_checkpoint_decides_is_refused_by_name(change: dict[str, Any], key: str) -> None:
    other = config(**change)
    with pytest.raises(ConfigError, match='start a new run with weights="runs/a/weights.safetensors"') as caught:
        check_resumable(Path("runs/a"), other, changes_to(other), {"epochs": 1, "steps": 9})
    assert key in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer__learning_rate": 1e-6},
        {"schedule__epochs": 30},
        {"model__test_cfg__rcnn__score_thr": 0.1},
        {"model__backbone__activation_checkpointing": True},
        {"model__backbone__drop_path_rate": 0.5},
        {"model__rpn_head__loss_bbox__loss_weight": 2.0},
    ],
    ids=str,
)
def test_everything_else_is_applied(change: dict[str, Any]) -> None:
    check_resumable(Path("runs/a"), config(**change), changes_to(config(**change)), {"epochs": 3, "steps": 9})


def test_other_classes_are_refused_and_other_names_on_request_taken() -> None:
    done = {"swin_dense": {"class_names": ["cat", "dog"]}}
    check_same_classes(Path("run"), done, ("cat", "dog"), renamed=False)
    check_same_classes(Path("run"), done, ("cat", "hound"), renamed=True)
    with pytest.raises(TrainingError, match=r"class 2 was 'dog', is 'hound' now; pass new_classes=False .*=True"):
        check_same_classes(Path("run"), done, ("cat", "hound"), renamed=False)
    with pytest.raises(TrainingError, match=r"2 classes, the data has 3: class 3 was nothing, is 'cow' now; start"):
        check_same_classes(Path("run"), done, ("cat", "dog", "cow"), renamed=True)


def test_what_a_run_is_resumed_with_becomes_its_record(tmp_path: Path) -> None:
    trainer = {"plugins": [AsyncCheckpointIO()], "strategy": "auto"}
    open_run(tmp_path, config(callbacks=["LearningRateMonitor", LearningRateMonitor()], trainer=trainer))
    written = load_config(tmp_path / "config.py")
    assert (written.callbacks, written.trainer) == (("LearningRateMonitor",), {"strategy": "auto"})
    for epochs in (30, 40):
        before = load_config(tmp_path / "config.py")
        other = load_config(before, {"schedule.epochs": epochs})
        record_resume(tmp_path, other, changed_settings(asdict(before), asdict(other)))
        assert load_config(tmp_path / "config.py").schedule.epochs == epochs
    facts = json.loads((tmp_path / "run.json").read_text())
    assert [one["changes"] for one in facts["resumed"]] == [{"schedule.epochs": [3, 30]}, {"schedule.epochs": [30, 40]}]
    assert len(facts["objects"]) == 2


def test_what_is_left_of_a_run_that_never_saved_makes_place_for_the_next(tmp_path: Path) -> None:
    open_run(tmp_path, config())
    (tmp_path / "metrics.csv").write_text("step\n")
    (tmp_path / "events.out.tfevents.1").touch()
    open_run(tmp_path, config())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.py", "run.json"]
    (tmp_path / "notes.txt").touch()
    with pytest.raises(TrainingError, match="holds notes.txt, which is no part of a run"):
        open_run(tmp_path, config())
    assert (tmp_path / "notes.txt").exists()
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(TrainingError, match='holds an earlier run: continue it with resume="'):
        open_run(tmp_path, config())


@pytest.mark.parametrize(
    "change",
    [{"loops": {}}, {"loops": None}, {"global_step": True}, {"global_step": -1}, {"global_step": "²"}]
    + [{"swin_dense": value} for value in ([], {"class_names": 3}, {"class_names": [1]}, {"class_names": "cat"})],
)
def test_checkpoints_of_which_nothing_can_go_on_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    sound = {"loops": {"fit_loop": {"epoch_progress": {"current": {"processed": 2}}}}, "global_step": 8}
    torch.save(sound, path)
    assert read_checkpoint(path)["epochs"] == 2
    torch.save(sound | change, path)
    with pytest.raises(TrainingError, match="is no training checkpoint that can be resumed"):
        read_checkpoint(path)


@pytest.mark.parametrize("text", ["[]", "3", "{", "[" * 100_000, '{"resumed": 3}', '{"resumed": null}'])
def test_a_damaged_record_keeps_no_run_from_going_on(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    record_resume(tmp_path, config(), {})
    assert len(json.loads((tmp_path / "run.json").read_text())["resumed"]) == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", {"epoch": 1}, {"state_dict": 3}, {"state_dict": {"x": 1}}, 1])
def test_a_damaged_best_checkpoint_is_named_and_the_weights_stay(content: Any, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"as they were")
    if isinstance(content, bytes):
        (tmp_path / "best.ckpt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "best.ckpt")
    with pytest.raises(TrainingError, match=r"best\.ckpt does not hold the best weights .*: restore it, or remove it"):
        write_weights(tmp_path, {})
    assert (tmp_path / "weights.safetensors").read_bytes() == b"as they were"


def test_a_folder_takes_one_training_at_a_time(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    code = f"""
from pathlib import Path
from swin_dense.tasks.run_folder import held
with held(Path({str(run)!r}), "training", "run"):
    print("held", flush=True)
    input()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdin is not None
    try:
        assert other.stdout.readline() == "held\n" and run.is_dir()
        again = held(run, "training", "run")
        with pytest.raises(OutputError, match='mine is being filled by another training.*run="FOLDER"'), again:
            pass
    finally:
        other.communicate("\n")
    with held(run, "training", "run"):
        assert list(run.iterdir()) == []
