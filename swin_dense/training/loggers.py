"""`metrics.csv`: every metric of a run in one table that survives a resume."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from swin_dense.errors import TrainingError
from swin_dense.files import atomic_write


class MetricsTable(Logger):
    """Appends one row per logged step, with the columns `step`, `epoch` and every metric that was ever logged.

    Lightning's own CSV logger deletes the table of an earlier run in the same folder; this one goes on with it, and
    drops only the rows that the resumed run will write again. The whole table is written at most once for each new
    column, else a row is one line at its end.
    """

    def __init__(self, path: Path, resumed_step: int = 0) -> None:
        """Reads back what an interrupted run has written.

        Args:
            path: The file.
            resumed_step: Step of the checkpoint that the run continues from; later rows are dropped.
        """
        super().__init__()
        self.path = path
        self._columns = ["step", "epoch"]
        self._row: dict[str, Any] = {}
        self._row_starts_at: int | None = None  # where the unfinished row lies in the file, if it does
        self._resume(resumed_step)

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
        """Adds the metrics of a step to its row."""
        if self._row and self._row["step"] != step:
            self.save()
            self._row, self._row_starts_at = {}, None
        self._row |= {"step": step, **metrics}
        if "epoch" in metrics:
            self._row["epoch"] = int(metrics["epoch"])

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the run folder holds the whole config."""

    @rank_zero_only
    def save(self) -> None:
        """Writes the row; only a new column has the table written whole, which a reader never sees half of."""
        if not self._row:
            return
        if set(self._row) <= set(self._columns) and self.path.is_file():
            line = io.StringIO()
            csv.DictWriter(line, self._columns).writerow(self._row)
            with self.path.open("r+b") as file:
                start = file.seek(0, io.SEEK_END) if self._row_starts_at is None else self._row_starts_at
                file.seek(start)
                file.write(line.getvalue().encode())
                file.truncate()
        else:
            start = self._write([*self._rows()[: None if self._row_starts_at is None else -1], self._row])
        self._row_starts_at = start

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes what is not written yet."""
        self.save()

    @rank_zero_only
    def _resume(self, resumed_step: int) -> None:
        """The last row before the checkpoint may still get what is validated at that step."""
        # The last line may have been cut short; and not `str.isdigit`, of whose digits `int` takes not all.
        whole = [row for row in (self._rows() if resumed_step else ()) if None not in (*row, *row.values())]
        rows = [row for row in whole if re.fullmatch("[0-9]{1,18}", row["step"]) and int(row["step"]) < resumed_step]
        if rows:
            self._row_starts_at = self._write(rows)
            self._row = {name: value for name, value in rows[-1].items() if value}
            self._row["step"] = int(self._row["step"])
        else:
            self.path.unlink(missing_ok=True)

    def _rows(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                table = csv.DictReader(file)
                rows, columns = list(table), table.fieldnames or ["step"]
        except (UnicodeDecodeError, csv.Error) as error:
            raise TrainingError(f"{self.path} is damaged ({error}): restore it, or move it away") from error
        if "step" not in columns:
            raise TrainingError(f"{self.path} is no table of metrics, it has no column 'step': move it away")
        return rows

    def _write(self, rows: list[dict[str, Any]]) -> int:
        """Writes the whole table; where its last row starts."""
        self._columns = list(dict.fromkeys([*self._columns, *(name for row in rows for name in row)]))
        table, last = io.StringIO(), 0
        writer = csv.DictWriter(table, self._columns)
        writer.writeheader()
        for row in rows:
            last = len(table.getvalue().encode()) if row is rows[-1] else 0
            writer.writerow(row)
        with atomic_write(self.path) as unfinished:
            unfinished.write_bytes(table.getvalue().encode())
        return last
