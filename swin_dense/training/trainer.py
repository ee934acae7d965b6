"""The Lightning trainers of every task."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from swin_dense.config import Config, TrainingConfig
from swin_dense.devices import chosen_device
from swin_dense.errors import ConfigError, nearest
from swin_dense.isolation import isolated
from swin_dense.training.base import check_precision
from swin_dense.training.callbacks import (
    BestCheckpoint,
    MovingAverage,
    ProgressLines,
    ResumePoint,
    ValidationPictures,
    WholeFiles,
)
from swin_dense.training.plugins import make_callbacks, make_loggers

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "auto": ""}
"""Our names of precisions and Lightning's; "auto" is float16 on CUDA and float32 elsewhere."""

OWNED = {
    "logger": "name loggers with loggers=[...]",
    "callbacks": "name callbacks with callbacks=[...]",
    "default_root_dir": "the run folder holds everything; name another run",
    "max_epochs": "set schedule.epochs",
    "max_steps": "set schedule.steps",
    "enable_checkpointing": "a run always has checkpoints; see training.checkpoint_every and training.save_top_k",
    "accumulate_grad_batches": "set training.images_per_step or training.accumulate",
    "gradient_clip_val": "set training.clip_gradient_norm",
    "log_every_n_steps": "set training.log_every",
    "check_val_every_n_epoch": "set training.validate_every",
    "val_check_interval": "set training.validate_every",
    "barebones": "a run writes what barebones leaves out; swin-dense benchmark train measures",
}
"""What the run folder or another key decides, and what to do instead of setting it in `trainer`."""

NEEDED = {
    "limit_train_batches": "there would be nothing to train on",
    "limit_val_batches": "the best weights are those of the best validation; set training.validate_every for fewer",
}
"""What a run cannot do without, and why."""

SILENCED = (
    "Checkpoint directory .* exists and is not empty",
    ".*LeafSpec.* is deprecated",
    ".*num_workers",
    "Found .* in eval mode at the start of training",
    "The number of training batches",
    "It is recommended to use `self.log",  # our metrics are the same on every rank
    ".*shuffling",  # our loaders repeat one epoch where `overfit_batches` is set
)
"""Warnings about what we do on purpose."""


@contextmanager
def surroundings(matmul_precision: str | None = None) -> Iterator[None]:
    """Quietens Lightning, and leaves all that it touches as it was, the precision of float32 products included."""
    products = torch.get_float32_matmul_precision()
    if torch.cuda.is_available():
        torch.cuda.init()  # type: ignore[no-untyped-call]  # for its generators to have a state to come back to
    with isolated():
        for message in SILENCED:
            warnings.filterwarnings("ignore", message=message)
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # less is about Lightning's other products
        if matmul_precision is not None:
            torch.set_float32_matmul_precision(matmul_precision)
        try:
            yield
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning exits, which would end more than a call
                raise KeyboardInterrupt from error
            raise
        finally:
            torch.set_float32_matmul_precision(products)


def placement(devices: int | str, device: str | None) -> dict[str, Any]:
    """What `--devices` (a number, or "auto") and `--device` (None: the best there is) mean to a trainer."""
    options: dict[str, Any] = {} if devices == "auto" else {"devices": devices}
    if device is not None:
        one = chosen_device(device)
        options |= {"accelerator": one.type} if one.index is None else {"accelerator": one.type, "devices": [one.index]}
    return options


def evaluation_trainer(
    devices: int | str = "auto", callbacks: Sequence[Callback] = (), device: str | None = None
) -> Trainer:
    """A trainer that writes nothing, for validation alone, in float32: published scores are made so."""
    return _build(
        {
            "precision": "32-true",
            **placement(devices, device),
            "logger": False,
            "enable_checkpointing": False,
            "callbacks": [*callbacks, *_progress_bar(1)],
        }
    )


def training_trainer(
    config: Config, run: Path, draw: Callable[[int, Any, Path], None], resumed_step: int = 0
) -> Trainer:
    """The trainer of a config with everything that fills its run folder.

    `draw` is that of `ValidationPictures`, `resumed_step` the step of the checkpoint that the run continues from.
    """
    training, options = config.training, check_trainer_options(config.trainer)
    top = training.save_top_k
    callbacks: list[Callback] = [
        # The average comes first: a checkpoint that is written after a step must hold that step's average.
        *([] if training.ema_decay is None else [MovingAverage(training.ema_decay)]),
        BestCheckpoint(run, config.score_metric, "best"),
        *([] if top == 1 else [BestCheckpoint(run, config.score_metric, "top-{step}", top)]),
        ResumePoint(run / "last.ckpt", training.checkpoint_every),
        ValidationPictures(run / "pictures", training.pictures, draw),
        *(_progress_bar(training.log_every) or [ProgressLines(training.log_every)]),
        *make_callbacks(config.callbacks, config.score_metric),
    ]
    length, counts_epochs = config.schedule.length, config.schedule.unit == "epochs"
    trainer = _build(
        {
            "precision": _precision(training.precision, options),
            "num_sanity_val_steps": 0,
            **options,
            "max_epochs": length if counts_epochs else -1,
            "max_steps": -1 if counts_epochs else length,
            # Where steps are counted, batches are counted on through all epochs.
            "check_val_every_n_epoch": (training.validate_every or 1) if counts_epochs else None,
            "val_check_interval": 1.0 if counts_epochs else 1,
            "gradient_clip_val": training.clip_gradient_norm,
            "log_every_n_steps": training.log_every,
            "callbacks": callbacks,
            "logger": make_loggers(config.loggers, run, resumed_step),
            "default_root_dir": run,
        }
    )
    trainer.accumulate_grad_batches = accumulation(training, config.data.batch_size, trainer.world_size)
    if not counts_epochs and not options.get("fast_dev_run"):
        trainer.val_check_interval = (training.validate_every or max(length // 10, 1)) * trainer.accumulate_grad_batches
    if isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)) and not options.get("plugins"):
        trainer.strategy.checkpoint_io = WholeFiles()
    return trainer


def trial_trainer(config: Config, folder: Path) -> Trainer:
    """The trainer of a config for a few steps on one device, which logs, validates and leaves nothing."""
    options = check_trainer_options({**config.trainer, "fast_dev_run": False})
    if not isinstance(options.get("devices"), list):
        options["devices"] = 1
    trainer = _build(
        {
            "precision": _precision(config.training.precision, options),
            **options,
            "num_sanity_val_steps": 0,
            "max_steps": 2**30,  # the tuner ends it, whatever the length of an epoch is
            "check_val_every_n_epoch": 2**30,
            "gradient_clip_val": config.training.clip_gradient_norm,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "default_root_dir": folder,
        }
    )
    trainer.accumulate_grad_batches = accumulation(config.training, config.data.batch_size, 1)
    return trainer


def check_trainer_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The `trainer` of a config, for Lightning's Trainer; refuses what that does not take and what a run decides."""
    known = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    for name in options:
        if name in OWNED:
            raise ConfigError(f"trainer.{name} is decided by the run: {OWNED[name]}")
        if name not in known:
            raise ConfigError(f'trainer: Lightning\'s Trainer takes no "{name}"; {nearest(name, known - OWNED.keys())}')
        if name in NEEDED and type(options[name]) in (int, float) and not options[name] > 0:
            raise ConfigError(f"trainer.{name} must be above 0, got {options[name]}: {NEEDED[name]}")
    return dict(options)


def accumulation(training: TrainingConfig, batch_size: int, processes: int) -> int:
    """Batches whose gradients are added up, so that a step sees `images_per_step` on whatever devices there are."""
    images, together = training.images_per_step, batch_size * processes
    if images is None:
        return training.accumulate
    if images % together == 0:
        return images // together
    share = f"data.batch_size={batch_size}" + (f" on each of {processes} devices" if processes > 1 else "")
    message = f"training.images_per_step={images} is no multiple of {share}"
    if images % processes:
        raise ConfigError(f"{message}, and no batch size makes it one: set it to a multiple of {processes}")
    fitting = [size for size in range(1, images // processes + 1) if images // processes % size == 0]
    near = sorted(sorted(fitting, key=lambda size: abs(size - batch_size))[:2])
    raise ConfigError(f"{message}; data.batch_size may be {' or '.join(map(str, near))}")


def describe(trainer: Trainer, config: Config) -> str:
    """Where and how a training computes, in one line; and which milestones it never reaches, in another."""
    length = config.schedule.length
    late = [one for one in getattr(config.schedule, "milestones", ()) if one > length]
    milestones = (
        f"\nschedule.milestones: {late} lie behind the last of {length} epochs: no step down of the learning rate there"
    )
    batches, size = trainer.accumulate_grad_batches, config.data.batch_size
    device = trainer.strategy.root_device.type
    return (
        f"training on {trainer.world_size} x {device} in {trainer.precision}, float32 products in "
        f'"{config.training.matmul_precision}" precision, {size * trainer.world_size * batches} images a step '
        f"({size} x {trainer.world_size} devices x {batches} batches){milestones if late else ''}"
    )


def check_validation(config: Config, metrics: Collection[str]) -> None:
    """Refuses a training that could not say which of its weights are the best, or watches what is never measured."""
    if config.score_metric not in metrics:
        raise ConfigError(f'score_metric: no metric "{config.score_metric}"; {nearest(config.score_metric, metrics)}')
    known = {f"val/{name}" for name in metrics}
    for one in config.callbacks:
        watched = one.get("monitor") if isinstance(one, Mapping) else None
        if isinstance(watched, str) and not watched.startswith("train/") and watched not in known:
            raise ConfigError(f'callbacks: {one} watches "{watched}", which is not logged; {nearest(watched, known)}')


def _build(options: dict[str, Any]) -> Trainer:
    """A trainer; what Lightning says of a wrong option comes as one line."""
    defaults: dict[str, Any] = {
        "enable_model_summary": False,  # thousands of modules
        "enable_progress_bar": sys.stderr.isatty(),
        "enable_autolog_hparams": False,  # the run folder holds the whole config
        # torchrun and Slurm say how many nodes take part; a single machine says nothing.
        "num_nodes": int(os.environ.get("GROUP_WORLD_SIZE") or os.environ.get("SLURM_NNODES") or 1),
    }
    if hasattr(sys, "ps1") and "strategy" not in options and options.get("devices", "auto") == "auto":
        options = {**options, "devices": 1}
    try:
        trainer = Trainer(**{**defaults, **options})
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error
    check_precision(trainer)
    # Their scores would stay in them, and forks cannot use a CUDA that is in use.
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise ConfigError(
            f"trainer.devices and trainer.strategy: no training in {trainer.world_size} forked or spawned processes. A "
            "notebook, or an interactive Python, computes on one device; use several from a script, or with swin-dense "
            "in a terminal, where trainer.strategy is ddp unless you set it"
        )
    return trainer


def _precision(wanted: str, options: Mapping[str, Any]) -> str:
    if wanted not in PRECISIONS:
        raise ConfigError(f'training.precision: unknown "{wanted}"; {nearest(wanted, PRECISIONS)}')
    on_cuda = torch.cuda.is_available() and options.get("accelerator", "auto") in ("auto", "gpu", "cuda")
    if wanted == "16" and not on_cuda:
        raise ConfigError("training.precision is 16, which needs a CUDA device: set it to auto")
    return PRECISIONS[("16" if on_cuda else "32") if wanted == "auto" else wanted]


def _progress_bar(every: int) -> list[Callback]:
    """A bar where stderr is a terminal; it goes there, so that stdout stays clean."""
    if not sys.stderr.isatty():
        return []
    return [RichProgressBar(refresh_rate=every, leave=True, console_kwargs={"stderr": True})]
