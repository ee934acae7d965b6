"""`metrics.csv` keeps every metric, also over a resume; other loggers end with the training."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import WandbLogger

from swin_dense.errors import TrainingError
from swin_dense.training.plugins import MetricsTable, RunLogger


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_of_one_step_share_a_row_and_columns_may_come_later(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "metrics.csv")
    table.log_metrics({"train/loss": 2.0, "epoch": 0}, step=10)
    table.log_metrics({"train/loss": 1.0, "epoch": 0}, step=20)
    table.log_metrics({"val/bbox_AP": 0.5, "epoch": 0}, step=20)
    table.save()
    assert rows(tmp_path / "metrics.csv") == [
        {"step": "10", "epoch": "0", "train/loss": "2.0", "val/bbox_AP": ""},
        {"step": "20", "epoch": "0", "train/loss": "1.0", "val/bbox_AP": "0.5"},
    ]


def test_a_resume_keeps_earlier_rows_and_rewrites_later_ones(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = MetricsTable(path)
    for step in (10, 20, 30):
        table.log_metrics({"train/loss": float(step)}, step=step)
    table.save()
    resumed = MetricsTable(path, resumed_step=25)
    resumed.log_metrics({"train/loss": 31.0}, step=30)
    resumed.finalize("success")
    assert [(row["step"], row["train/loss"]) for row in rows(path)] == [("10", "10.0"), ("20", "20.0"), ("30", "31.0")]


def test_a_row_is_appended_and_what_is_before_it_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = MetricsTable(path)
    for step in range(3):
        table.log_metrics({"train/loss": 1.0, "epoch": 0}, step=step)
        table.save()
    before = path.read_bytes()
    inode = path.stat().st_ino
    table.log_metrics({"train/loss": 2.0, "epoch": 0}, step=3)
    table.save()
    table.log_metrics({"train/loss": 3.0}, step=3)
    table.save()
    assert path.read_bytes() == before + b"3,0,3.0\r\n"
    assert path.stat().st_ino == inode


def test_the_row_of_a_checkpoint_still_gets_its_validation_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = MetricsTable(path)
    for step in (1, 2, 3):
        table.log_metrics({"train/loss": float(step), "epoch": 0}, step=step)
    table.save()
    resumed = MetricsTable(path, resumed_step=3)
    resumed.log_metrics({"val/mIoU": 50.0, "epoch": 0}, step=2)
    resumed.save()
    resumed.log_metrics({"train/loss": 4.0, "epoch": 1}, step=3)
    resumed.finalize("success")
    assert [(row["step"], row["epoch"], row["train/loss"], row["val/mIoU"]) for row in rows(path)] == [
        ("1", "0", "1.0", ""),
        ("2", "0", "2.0", "50.0"),
        ("3", "1", "4.0", ""),
    ]


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,epoch,train/loss\n1,0,2.0\n2,")
    resumed = MetricsTable(path, resumed_step=9)
    resumed.log_metrics({"train/loss": 1.0, "epoch": 0}, step=9)
    resumed.save()
    assert [row["step"] for row in rows(path)] == ["1", "9"]


@pytest.mark.parametrize("step", ["²", "٣", "9" * 5000, "", "1.0", "-1", "8,9,9"])
def test_a_line_whose_step_is_no_number_is_left_out(step: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(f"step,epoch,train/loss\n4,0,0.5\n{step},0,0.25\n", encoding="utf-8")
    MetricsTable(path, resumed_step=20).finalize("success")
    assert rows(path) == [{"step": "4", "epoch": "0", "train/loss": "0.5"}]


@pytest.mark.parametrize("content", [b"step,loss\n1,\xff\n", b"step,loss\n1," + b"5" * 200_000 + b"\n", b"epoch\n3\n"])
def test_what_is_no_table_is_refused_and_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match="metrics.csv is .*move it away"):
        MetricsTable(path, resumed_step=20)
    assert path.read_bytes() == content


@pytest.mark.parametrize("begins", [True, False])
def test_a_run_of_wandb_ends_with_the_training_that_has_begun_it(begins: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    wandb = SimpleNamespace(run=None if begins else object(), finish=lambda: ended.append(True))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(WandbLogger, "__init__", lambda self: None)
    monkeypatch.setattr(WandbLogger, "finalize", lambda self, status: None)
    logger = RunLogger()
    wandb.run = object()
    logger.finalize("success")
    assert ended == ([True] if begins else [])
