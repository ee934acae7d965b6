"""Loggers and callbacks that a config names, each imported only where it is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger

from swin_dense.errors import ConfigError, nearest
from swin_dense.training.loggers import MetricsTable

LOGGERS = {
    "csv": "",
    "tensorboard": "TensorBoardLogger",
    "wandb": "WandbLogger",
    "mlflow": "MLFlowLogger",
    "comet": "CometLogger",
    "neptune": "NeptuneLogger",
}
"""Lightning's loggers by short name; "csv" is our own `metrics.csv`."""


def make_loggers(wanted: Sequence[object], run: Path, resumed_step: int) -> list[Logger]:
    """The loggers of a run.

    Args:
        wanted: Short names of `LOGGERS`, class paths, either also as dict(type=..., **arguments), or loggers.
        run: The run folder.
        resumed_step: Step of the checkpoint that the run continues from.
    """
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
        made.append(_make("loggers", one, "lightning.pytorch.loggers", defaults, LOGGERS))
    return made


def make_callbacks(wanted: Sequence[object], score_metric: str) -> list[Callback]:
    """The callbacks that a config adds; `EarlyStopping` looks at the score metric unless it is told another.

    Args:
        wanted: Names of Lightning's callbacks, class paths, either also as dict(type=..., **arguments), or callbacks.
        score_metric: What the best weights are chosen by.
    """
    made = []
    for one in wanted:
        name = str(one.get("type") if isinstance(one, Mapping) else one)
        defaults = {"monitor": f"val/{score_metric}", "mode": "max"} if name.endswith("EarlyStopping") else {}
        made.append(_make("callbacks", one, "lightning.pytorch.callbacks", defaults, {}))
    return made


def _make(key: str, wanted: object, home: str, defaults: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    """An object of a class that is named alone or with arguments; any other object as it is."""
    if isinstance(wanted, Mapping):
        arguments = {**defaults, **wanted}
        path = arguments.pop("type", None)
        if not isinstance(path, str):
            raise ConfigError(f'{key}: {dict(wanted)} names no class; write dict(type="...", ...)')
    elif isinstance(wanted, str):
        path, arguments = wanted, dict(defaults)
    else:
        return wanted
    module, _, name = names.get(path, path).rpartition(".")
    try:
        kind = getattr(import_module(module or home), name, None)
        if kind is None:
            known = [one for one in dir(import_module(module or home)) if one[0].isupper()]
            raise ConfigError(f'{key}: {module or home} has no "{name}"; {nearest(name, known)}')
        return kind(**arguments)
    except ImportError as error:
        raise ConfigError(f'{key}: "{path}" cannot be imported ({error}); is its package installed?') from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f'{key}: "{path}" refuses its arguments {arguments}: {error}') from error
