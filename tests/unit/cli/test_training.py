"""`swin-dense demo` and `swin-dense train`: where a run goes, on what it computes, and what is printed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import swin_dense
from helpers.commands import command
from swin_dense.config import Config, config_text, load_config
from swin_dense.tasks import training
from swin_dense.tasks.training import Run

real_train = training.train


@pytest.fixture(autouse=True)
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The run folders that were asked for; nothing is computed, only the folder is written."""
    folders: list[Path] = []

    def train(config: Config, run: Path, **options: object) -> Run:
        device = options["device"]
        config = replace(config, trainer={} if device is None else {"accelerator": device})  # as the real one does
        run.mkdir(parents=True)
        (run / "run.json").write_text("{}")
        (run / "config.py").write_text(config_text(config))
        folders.append(run)
        return Run(run, {"bbox": {"AP": 0.5, "per_class": {"square": 0.5}}})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(training, "write_shapes", lambda *args, **counts: None)
    return folders


def test_each_task_has_a_folder_of_its_own(trained: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    for task in ("detection", "segmentation", "segmentation"):
        assert command("demo", "--task", task) == 0
    assert [str(run) for run in trained] == ["runs/demo-detection", *["runs/demo-segmentation"] * 2]
    assert "swin-dense evaluate runs/demo-segmentation" in capsys.readouterr().out


def test_a_demo_replaces_no_other_run(trained: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("demo", "--run", "mine") == 0
    kept = Path("mine/config.py").read_text()
    for other in (("--data", "other"), ("--task", "segmentation")):
        assert command("demo", "--run", "mine", *other) == 2
        assert "mine holds another run than this demo; remove it, or name another" in capsys.readouterr().err
    assert (len(trained), Path("mine/config.py").read_text()) == (1, kept)


def test_a_demo_on_another_device_is_still_that_demo(trained: list[Path]) -> None:
    for words in (("--device", "cpu"), (), ("--device", "cpu")):
        assert command("demo", *words) == 0
    assert len(trained) == 3


def test_metrics_and_next_steps_are_printed_or_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("demo") == 0
    captured = capsys.readouterr()
    assert "50.0" in captured.out and "swin-dense predict runs/demo-detection" in captured.out
    assert command("demo", "--json") == 0
    metrics = {"bbox": {"AP": 0.5, "per_class": {"square": 0.5}}}
    assert json.loads(capsys.readouterr().out) == {"run": "runs/demo-detection", "metrics": metrics}


def test_a_device_that_is_none_is_an_error_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "train", real_train)
    assert command("train", "mask-rcnn_swin-nano_shapes", "--device", "warp", "--run", "there") == 2
    assert 'error: device "warp" cannot be used' in capsys.readouterr().err
    assert not Path("there").exists()


def test_a_task_that_is_none_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("demo", "--task", "depth") == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_one_switch_compiles_the_backbone(trained: list[Path]) -> None:
    recipe = "mask-rcnn_swin-nano_shapes"
    assert command("train", recipe, "--compile", "--device", "cpu", "--run", "one") == 0
    swin_dense.train(recipe, compile=True, device="cpu", run="two")
    swin_dense.train(recipe, device="cpu", run="three")
    assert [load_config(run / "config.py").training.compile for run in trained] == [True, True, False]
