"""Short trials before a training, by Lightning's Tuner: which learning rate, and how many images at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from lightning.pytorch.tuner.tuning import Tuner

from swin_dense.config import Config
from swin_dense.errors import ConfigError, TrainingError, nearest, option, setting
from swin_dense.tasks.training import data_set_up, initial_module
from swin_dense.training.trainer import placement, surroundings, trial_trainer

LOWEST, HIGHEST = 1e-6, 1e-1
"""Learning rates between which the search goes: those that AdamW may train with."""

SKIPPED = 10
"""First steps that say nothing yet: Lightning's own number."""

STEPS_OF_A_SIZE = 3

BOUNDED = ("cuda",)
"""Devices that say when their memory is full."""


def tune(
    config: Config,
    what: str,
    *,
    weights: str | PathLike[str] | None = None,
    new_classes: bool | None = None,
    ignore: Sequence[str] = (),
    steps: int = 100,
    device: str | None = None,
) -> dict[str, Any]:
    """Tries out a learning rate or a batch size; see `swin_dense.tune`."""
    if what not in TRIALS:
        raise ConfigError(f"{option('tune', what)}: {nearest(what, TRIALS)}")
    if steps <= SKIPPED + 3:
        raise ConfigError(f"{option('steps', steps)}: the first {SKIPPED} say nothing, take at least {SKIPPED + 4}")
    training = replace(config.training, compile=False)
    config = replace(config, training=training, trainer={**config.trainer, **placement("auto", device)})
    with surroundings(config.training.matmul_precision), TemporaryDirectory() as folder:
        logging.getLogger("lightning.pytorch.tuner").setLevel(logging.ERROR)
        trainer = trial_trainer(config, Path(folder))
        if what == "batch-size" and trainer.strategy.root_device.type not in BOUNDED:
            raise ConfigError(
                f"{option('tune', what)} needs a CUDA device: the search goes on until memory runs out, and on this "
                f"one ({trainer.strategy.root_device.type}) the system would end the process then"
            )
        data = data_set_up(config)
        module = initial_module(config, data, weights, new_classes=new_classes, ignore=ignore)
        result: dict[str, Any] = TRIALS[what](config, trainer, module, data, steps)
        return result


def _learning_rate(config: Any, trainer: Any, module: Any, data: Any, steps: int) -> dict[str, Any]:
    search = Tuner(trainer).lr_find(
        module, datamodule=data, min_lr=LOWEST, max_lr=HIGHEST, num_training=steps, update_attr=False
    )
    assert search is not None
    rates, losses = search.results["lr"], np.array(search.results["loss"])
    losses = losses[: len(losses) if np.isfinite(losses).all() else int(np.isfinite(losses).argmin())]
    if len(losses) < SKIPPED + 4:
        raise TrainingError(
            f"the loss was a finite number for {len(losses)} of {steps} steps, too few to suggest a learning rate; try "
            f"{setting('training.clip_gradient_norm')}, and look at the data with swin-dense check-data"
        )
    # By the decades of the rate: by the rate itself, as Lightning suggests, a fall at tiny rates counts for most.
    found = float(f"{rates[SKIPPED + int(np.gradient(losses[SKIPPED:-1]).argmin())]:.1e}")
    return {
        "learning_rate": found,
        "in_config": config.optimizer.learning_rate,
        "tried": [rates[0], rates[len(losses) - 1]],
        "steps": len(losses),
        "losses": losses.tolist(),
        "set": [f"optimizer.learning_rate={found:g}"],
    }


def _batch_size(config: Any, trainer: Any, module: Any, data: Any, steps: int) -> dict[str, Any]:
    trainer.accumulate_grad_batches, make_loader = 1, data.train_dataloader

    def loader() -> Any:
        """One that starts anywhere: the tuner puts back the place of one whose batches had another size."""
        made = make_loader()
        made.load_state_dict = lambda state: None
        return made

    data.train_dataloader = loader
    try:
        largest = Tuner(trainer).scale_batch_size(module, datamodule=data, steps_per_trial=STEPS_OF_A_SIZE)
    except Exception as error:
        if data.batch_size < 1:
            raise TrainingError(
                "not even one image at a time fits into the memory of the device: set "
                "model.backbone.activation_checkpointing=True, or train on smaller images"
            ) from error
        raise
    assert largest is not None
    if largest >= len(data.train_dataset):  # there the tuner stops, whether that many fit or not
        largest = max(1, largest // 2)
    images = config.training.images_per_step
    fitting = [size for size in range(1, largest + 1) if images is None or images % size == 0]
    return {
        "batch_size": fitting[-1],
        "in_config": config.data.batch_size,
        "largest": largest,
        "images_per_step": images or fitting[-1] * config.training.accumulate,
        "set": [f"data.batch_size={fitting[-1]}"],
    }


TRIALS = {"learning-rate": _learning_rate, "batch-size": _batch_size}
