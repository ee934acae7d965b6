"""`metrics.csv` keeps every figure, also over a resume."""

from __future__ import annotations

import csv
from pathlib import Path

from swin_dense.training.loggers import MetricsTable


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_figures_of_one_step_share_a_row_and_columns_may_come_later(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "metrics.csv")
    table.log_metrics({"train/loss": 2.0, "epoch": 0}, step=10)
    table.log_metrics({"train/loss": 1.0, "epoch": 0}, step=20)
    table.log_metrics({"val/bbox_AP": 0.5, "epoch": 0}, step=20)
    table.save()
    assert rows(tmp_path / "metrics.csv") == [
        {"step": "10", "epoch": "0", "train/loss": "2.0", "val/bbox_AP": ""},
        {"step": "20", "epoch": "0", "train/loss": "1.0", "val/bbox_AP": "0.5"},
    ]


def test_a_resume_keeps_earlier_rows_and_writes_later_ones_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = MetricsTable(path)
    for step in (10, 20, 30):
        table.log_metrics({"train/loss": float(step)}, step=step)
    table.save()
    resumed = MetricsTable(path, resumed_step=25)
    resumed.log_metrics({"train/loss": 31.0}, step=30)
    resumed.finalize("success")
    assert [(row["step"], row["train/loss"]) for row in rows(path)] == [("10", "10.0"), ("20", "20.0"), ("30", "31.0")]
