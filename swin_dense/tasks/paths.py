"""The files and folders that a config names, and what to say of one that is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swin_dense.config import Config

WAYS_OUT = {
    "data.train_stuff": "without stuff maps set model.roi_head.semantic_head and "
    "model.roi_head.semantic_roi_extractor to None"
}
"""What else can be done about a key."""


def path_notes(config: Config) -> dict[Path, str]:
    """What to add to an error about a path of a config.

    Args:
        config: Its `data`.

    Returns:
        By path, the key that names it and how to name another. Of two keys that name the same path, the later one.
    """
    return {
        Path(config.data.root) / value: _note(key, value, config.data.root)
        for key, value in _paths(asdict(config.data), "data")
    }


def _paths(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Every text but the root, with its key: the data of a config has no other texts than paths."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}.{name}")
        elif isinstance(value, str) and name != "root":
            yield f"{prefix}.{name}", value


def _note(key: str, value: str, root: str) -> str:
    note = f"{key} below data.root={root}; --data names the folder of the data set, --set {key}=... another place"
    if Path(value).is_absolute():
        note = f"{key}; --set {key}=... names another place"
    return f"{note}; {WAYS_OUT[key]}" if key in WAYS_OUT else note
