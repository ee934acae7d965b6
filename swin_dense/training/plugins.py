"""Loggers and callbacks that a config names, each imported only where it is named; `metrics.csv` is our own logger."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, callbacks
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from swin_dense.errors import ConfigError, TrainingError, nearest
from swin_dense.files import atomic_write, written

LOGGERS = {
    "csv": "",
    "tensorboard": "swin_dense.training.plugins.EventsLogger",
    "wandb": "swin_dense.training.plugins.RunLogger",
    "mlflow": "MLFlowLogger",
    "comet": "CometLogger",
    "neptune": "NeptuneLogger",
}
"""Lightning's loggers by short name; "csv" is our own `metrics.csv`."""


CALLBACKS = {"EarlyStopping": "swin_dense.training.plugins.EarlyStopping"}
"""Callbacks of Lightning's names that are ours."""


def make_loggers(wanted: Sequence[object], run: Path, resumed_step: int) -> list[Logger]:
    """The loggers of a run, by short names of `LOGGERS` or class paths, also as dict(type=..., **arguments)."""
    places: dict[str, dict[str, Any]] = {
        "tensorboard": {"save_dir": run, "name": "", "version": ""},
        "wandb": {"save_dir": run, "name": run.name},
        "mlflow": {"save_dir": str(run / "mlruns"), "experiment_name": run.name},
    }
    made: list[Logger] = []
    for one in wanted:
        name = one.get("type") if isinstance(one, Mapping) else one
        if name == "csv":
            made.append(MetricsTable(run / "metrics.csv", resumed_step))
            continue
        if isinstance(name, str) and "." not in name and name not in LOGGERS:
            raise ConfigError(f'loggers: there is no "{name}"; {nearest(name, LOGGERS)}, or a class path')
        defaults = places.get(name, {}) if isinstance(name, str) else {}
        made.append(_make("loggers", Logger, one, "lightning.pytorch.loggers", defaults, LOGGERS))
    return made


def make_callbacks(wanted: Sequence[object], score_metric: str) -> list[Callback]:
    """The callbacks that a config adds; `EarlyStopping` watches the score metric unless it is given another."""
    made = []
    for one in wanted:
        name = str(one.get("type") if isinstance(one, Mapping) else one)
        defaults = {"monitor": f"val/{score_metric}", "mode": "max"} if name.endswith("EarlyStopping") else {}
        made.append(_make("callbacks", Callback, one, "lightning.pytorch.callbacks", defaults, CALLBACKS))
    return made


def _make(
    key: str, base: type, wanted: object, home: str, defaults: Mapping[str, Any], names: Mapping[str, str]
) -> Any:
    """An object of a class, below `base`, that is named alone or with arguments; or such an object as it is."""
    if isinstance(wanted, Mapping):
        arguments = {**defaults, **wanted}
        path = arguments.pop("type", None)
        if not isinstance(path, str):
            raise ConfigError(f'{key}: {dict(wanted)} names no class; write dict(type="...", ...)')
    elif isinstance(wanted, str):
        path, arguments = wanted, dict(defaults)
    elif isinstance(wanted, base):
        return wanted
    else:
        raise ConfigError(f"{key}: {wanted!r} is neither the name of a {base.__name__} nor one")
    module, _, name = names.get(path, path).rpartition(".")
    try:
        kind = getattr(import_module(module or home), name, None)
        if kind is None:
            known = [one for one in dir(import_module(module or home)) if one[0].isupper()]
            raise ConfigError(f'{key}: {module or home} has no "{name}"; {nearest(name, known)}')
        if not (isinstance(kind, type) and issubclass(kind, base)):
            raise ConfigError(f'{key}: "{path}" is no {base.__name__} of Lightning')
        return kind(**arguments)
    except ImportError as error:
        raise ConfigError(f'{key}: "{path}" cannot be imported ({error}); is its package installed?') from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f'{key}: "{path}" refuses its arguments {arguments}: {error}') from error


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, with the patience that it has been given, where a checkpoint would bring back an earlier one."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting where the checkpoint was written."""
        super().load_state_dict({**state_dict, "patience": self.patience})


class RunLogger(WandbLogger):
    """Lightning's, which ends the run that it has begun: the next training of a process would go on with it."""

    def __init__(self, **options: Any) -> None:
        """Takes note of whether there is a run already, such as that of a sweep."""
        super().__init__(**options)
        self._begins = getattr(sys.modules.get("wandb"), "run", None) is None

    def finalize(self, status: str) -> None:
        """Ends the run."""
        super().finalize(status)
        if self._begins and (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
            wandb.finish()


class EventsLogger(TensorBoardLogger):
    """TensorBoard's events alone: Lightning adds an `hparams.yaml`, empty here as the run folder holds the config."""

    @rank_zero_only
    def save(self) -> None:
        """Writes the events out."""
        super(TensorBoardLogger, self).save()


class MetricsTable(Logger):
    """Appends one row per logged step, with the columns `step`, `epoch` and every metric that was ever logged.

    Lightning's own CSV logger deletes the table of an earlier run in the same folder; this one goes on with it, and
    drops only the rows that the resumed run will write again. The whole table is written at most once for each new
    column, else a row is one line at its end.
    """

    def __init__(self, path: Path, resumed_step: int = 0) -> None:
        """Reads back what an interrupted run has written before the checkpoint that it continues from."""
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
            with written(self.path), self.path.open("r+b") as file:
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
