"""The Lightning trainers of every task."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from swin_dense.config import Config
from swin_dense.errors import ConfigError, nearest
from swin_dense.training.callbacks import ProgressLines, ResumePoint, ValidationPictures
from swin_dense.training.loggers import MetricsTable

QUIET: dict[str, Any] = {"enable_model_summary": False, "enable_progress_bar": sys.stderr.isatty()}
"""Lightning's own summary of thousands of modules helps nobody."""

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
"""Our names of precisions and Lightning's."""


def evaluation_trainer(
    devices: int | str = "auto", callbacks: Sequence[Callback] = (), device: str | None = None
) -> Trainer:
    """A trainer that writes nothing, for validation alone, in float32: published scores are made so.

    Args:
        devices: As in `training_trainer`.
        callbacks: What is to happen around the batches.
        device: As in `training_trainer`.

    Returns:
        The trainer.
    """
    return Trainer(
        **_placement("32", devices, device),
        logger=False,
        enable_checkpointing=False,
        callbacks=[*callbacks, *_progress_bar()],
        **QUIET,
    )


def training_trainer(
    config: Config,
    run: Path,
    draw: Callable[[int, Any, Path], None],
    devices: int | str = "auto",
    resumed_step: int = 0,
    device: str | None = None,
) -> Trainer:
    """The trainer of a config with everything that fills its run folder.

    Args:
        config: Its `training`, `schedule` and `score_metric`.
        run: The run folder.
        draw: Draws one validation image: gets its id, what was predicted, and the file to write.
        devices: Number of devices of this node, or "auto" for all.
        resumed_step: Step of the checkpoint that the run continues from.
        device: Type of the devices, as in `torch.device`; None takes the best there is.

    Returns:
        The trainer.
    """
    training = config.training
    callbacks: list[Callback] = [
        # The average comes first: a checkpoint that is written after a step must hold that step's average.
        *moving_average(training.ema_decay),
        ModelCheckpoint(
            dirpath=run,
            filename="best",
            monitor=f"val/{config.score_metric}",
            mode="max",
            save_on_train_epoch_end=False,  # a validation that is made up for on resuming has no such end
            enable_version_counter=False,
        ),
        ResumePoint(run / "last.ckpt", training.checkpoint_every),
        ValidationPictures(run / "pictures", training.pictures, draw),
        *(_progress_bar() or [ProgressLines(training.log_every)]),
    ]
    return Trainer(
        **_placement(training.precision, devices, device),
        **_length(config),
        accumulate_grad_batches=training.accumulate,
        gradient_clip_val=training.clip_gradient_norm,
        log_every_n_steps=training.log_every,
        callbacks=callbacks,
        logger=[MetricsTable(run / "metrics.csv", resumed_step), TensorBoardLogger(run, name="", version="")],
        num_sanity_val_steps=0,
        default_root_dir=run,
        **QUIET,
    )


def check_validation(config: Config, figures: Collection[str]) -> None:
    """Refuses a training that could not say which of its weights are the best.

    Args:
        config: Its `score_metric`.
        figures: Names of what the validation measures.

    Raises:
        ConfigError: `score_metric` is none of the figures.
    """
    if config.score_metric not in figures:
        raise ConfigError(f'score_metric: no figure "{config.score_metric}"; {nearest(config.score_metric, figures)}')


def moving_average(decay: float | None) -> list[Callback]:
    """Keeps an exponential moving average of the weights; it is what is validated and saved as the best.

    Args:
        decay: Of the average, from one optimizer step to the next; None keeps none.

    Returns:
        The callback, or nothing.
    """
    if decay is None:
        return []

    def average(averaged: Tensor, current: Tensor, count: Tensor) -> Tensor:
        # Lightning's own form, decay * averaged + (1 - decay) * current, rounds even where both are equal: frozen
        # weights would drift, and integers fall below their value.
        return torch.lerp(averaged, current, 1 - decay) if averaged.is_floating_point() else current

    return [_MovingAverage(avg_fn=average)]


class _MovingAverage(WeightAveraging):
    """Leaves the weights at the end of a training what they are: a longer one may continue from them."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's own puts the average in their place, before the last checkpoint is written."""


def _length(config: Config) -> dict[str, Any]:
    """How long the trainer trains, and when it validates: in epochs, or in optimizer steps."""
    training = config.training
    if config.schedule.unit == "epochs":
        return {"max_epochs": config.schedule.length, "check_val_every_n_epoch": training.validate_every or 1}
    steps = config.schedule.length
    return {
        "max_steps": steps,
        "check_val_every_n_epoch": None,  # batches are counted on, through all epochs
        "val_check_interval": (training.validate_every or max(steps // 10, 1)) * training.accumulate,
    }


def _quiet_lightning() -> None:
    """Leaves out what Lightning says about its other products, and about what we do on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        "Checkpoint directory .* exists and is not empty",
        ".*LeafSpec.* is deprecated",
        ".*num_workers",
        "Found .* in eval mode at the start of training",
        "The number of training batches",
    ):
        warnings.filterwarnings("ignore", message=message)


def _placement(precision: str, devices: int | str, device: str | None) -> dict[str, Any]:
    _quiet_lightning()
    if precision not in PRECISIONS:
        raise ConfigError(f'training.precision: unknown "{precision}"; {nearest(precision, PRECISIONS)}')
    if precision == "16" and not torch.cuda.is_available():
        raise ConfigError("training.precision is 16, which needs a CUDA device: pass --set training.precision=32")
    return {
        "precision": PRECISIONS[precision],
        "accelerator": "auto" if device is None else torch.device(device).type,
        "devices": devices,
        # torchrun and Slurm say how many nodes take part; a single machine says nothing.
        "num_nodes": int(os.environ.get("GROUP_WORLD_SIZE") or os.environ.get("SLURM_NNODES") or 1),
        "use_distributed_sampler": False,
    }


def _progress_bar() -> list[Callback]:
    """A bar where somebody watches; it goes to stderr, so that stdout stays clean."""
    return [RichProgressBar(leave=True, console_kwargs={"stderr": True})] if sys.stderr.isatty() else []
