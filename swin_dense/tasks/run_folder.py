"""What lies in a run folder beside the checkpoints: the config, where it came from, and weights ready for use."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_only

from swin_dense.config import Config, config_text
from swin_dense.errors import TrainingError
from swin_dense.files import atomic_write
from swin_dense.weights import save_weights

NETWORK = "model.network."
"""Prefix of the network's parameters in a training checkpoint."""

RECORDED = ("swin-dense", "torch", "torchvision", "lightning", "numpy", "faster-coco-eval", "pycocotools")
"""Packages whose versions a run folder records."""


def is_first_process() -> bool:
    """Whether this is the one process, of however many train together, that writes files and talks."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


def open_run(run: Path, config: Config) -> None:
    """Writes down what is run, on the first process; the others may come before or after.

    Args:
        run: The run folder.
        config: What is run.

    Raises:
        TrainingError: The folder holds an earlier run.
    """
    if not is_first_process():
        return
    if run.exists() and any(run.iterdir()):
        held = f"an earlier run: continue it with --resume {run}"
        if not (run / "last.ckpt").is_file():
            held = "files, but no checkpoint to resume from: delete it"
        raise TrainingError(f"{run} holds {held}, or name another folder with --run")
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.py").write_text(config_text(config))
    facts = {
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in RECORDED}},
        "seed": config.training.seed,
        "command": sys.argv,
    }
    write_json(run / "run.json", facts)


class Progress(NamedTuple):
    """How far a training has come.

    Attributes:
        epochs: Whole epochs done.
        steps: Optimizer steps done.
    """

    epochs: int
    steps: int


def progress_of(checkpoint: Path) -> Progress:
    """How far a training had come when it was saved.

    Args:
        checkpoint: `last.ckpt` of a run folder.

    Returns:
        Epochs and steps.

    Raises:
        TrainingError: There is no checkpoint, or it is damaged.
    """
    if not checkpoint.is_file():
        raise TrainingError(f"{checkpoint} does not exist: there is nothing to resume in {checkpoint.parent}")
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        epochs = int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
        return Progress(epochs, int(content["global_step"]))
    except Exception as error:
        raise TrainingError(f"{checkpoint} is no training checkpoint that can be resumed: {error}") from error


def write_weights(run: Path, labels: Mapping[str, Any]) -> None:
    """Writes the best weights without optimizer state, and what is needed to use them.

    Args:
        run: The run folder; holds `best.ckpt`.
        labels: What the predicted numbers mean, kept beside the weights as JSON texts by name.
    """
    tensors = torch.load(run / "best.ckpt", map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    network = {name.removeprefix(NETWORK): value for name, value in tensors.items() if name.startswith(NETWORK)}
    metadata = {
        "swin_dense_version": version("swin-dense"),
        **{name: json.dumps(value) for name, value in labels.items()},
    }
    save_weights(network, run / "weights.safetensors", metadata=metadata)


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file; a reader sees the old file or the whole new one.

    Args:
        path: The file; its folder is made if it does not exist.
        value: Anything that JSON can hold.
    """
    with atomic_write(path) as unfinished:
        unfinished.write_text(json.dumps(value))
