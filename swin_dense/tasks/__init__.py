"""What a config becomes: `task_of` is the only place that asks for the task."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from swin_dense.config import TASKS, Config
from swin_dense.errors import ConfigError, nearest
from swin_dense.tasks.base import Task, path_notes

__all__ = ["Task", "data_module", "task_named", "task_of"]


def task_of(config: Config) -> Task[Any]:
    """The task object of a config."""
    return task_named(config.task)


def task_named(name: str) -> Task[Any]:
    """The task object of this name: `TASK` in `swin_dense/tasks/NAME.py`."""
    if name not in TASKS:
        raise ConfigError(f'there is no task "{name}"; {nearest(name, TASKS)}')
    task: Task[Any] = import_module(f"swin_dense.tasks.{name}").TASK
    return task


def data_module(config: Config) -> Any:
    """The data module of a config, nothing read yet; its errors name the config key of a path."""
    data = task_of(config).data_module(config)
    data.path_notes = path_notes(config)
    return data
