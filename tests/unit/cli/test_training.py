"""`swin-dense demo`: where its run goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.commands import command
from swin_dense.tasks import training
from swin_dense.tasks.training import Run


@pytest.fixture(autouse=True)
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The run folders that were asked for; nothing is computed, only the folder is written."""
    folders: list[Path] = []

    def train(config: object, run: Path) -> Run:
        from swin_dense.config import config_text

        run.mkdir(parents=True)
        (run / "run.json").write_text("{}")
        (run / "config.py").write_text(config_text(config))  # type: ignore[arg-type]  # any config
        folders.append(run)
        return Run(run, {})

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


def test_a_task_that_is_none_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("demo", "--task", "depth") == 2
    assert capsys.readouterr().err.startswith("error: ")
