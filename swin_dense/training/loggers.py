"""`metrics.csv`: every figure of a run in one table that survives a resume."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from swin_dense.files import atomic_write


class MetricsTable(Logger):
    """Writes one row per logged step, with the columns `step`, `epoch` and every figure that was ever logged.

    Lightning's own CSV logger deletes the table of an earlier run in the same folder; this one reads it back, and drops
    only the rows that the resumed run will write again.
    """

    def __init__(self, path: Path, resumed_step: int = 0) -> None:
        """Reads back what an interrupted run has written.

        Args:
            path: The file.
            resumed_step: Step of the checkpoint that the run continues from; later rows are dropped.
        """
        super().__init__()
        self.path = path
        self._rows: list[dict[str, Any]] = []
        if resumed_step and path.is_file():
            with path.open(newline="") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["step"]) < resumed_step]

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """A run folder holds one run."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds the figures of a step to its row.

        Args:
            metrics: Figures by name.
            step: Optimizer step.
        """
        if self._rows and self._rows[-1]["step"] == step:
            self._rows[-1].update(metrics)
        else:
            self._rows.append({"step": step, **metrics})

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the run folder holds the whole config."""

    @rank_zero_only
    def save(self) -> None:
        """Writes the whole table; a reader never sees half of it."""
        columns = list(dict.fromkeys(["step", "epoch", *(name for row in self._rows for name in row)]))
        with atomic_write(self.path) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self._rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes what is not written yet.

        Args:
            status: Not looked at.
        """
        self.save()
