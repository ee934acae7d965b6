"""Configs: found by name or path, and read into frozen dataclasses, a module of them for each task."""

from swin_dense.config.common import TrainingConfig, stopping_early
from swin_dense.config.parsing import (
    TASKS,
    Config,
    config_of_run,
    config_text,
    describe_recipe,
    find_config,
    list_recipes,
    load_config,
    settings_of,
)

__all__ = [
    "TASKS",
    "Config",
    "TrainingConfig",
    "config_of_run",
    "config_text",
    "describe_recipe",
    "find_config",
    "list_recipes",
    "load_config",
    "settings_of",
    "stopping_early",
]
