"""Callbacks of a run: checkpoints that resume at any step, wherever the run lies; pictures; progress in plain lines."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from torch import Tensor

from swin_dense.errors import TrainingInterruptedError, training_resumed
from swin_dense.files import atomic_write
from swin_dense.records import Batch


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints beside their place, syncs them and moves them there; Lightning stages them in /tmp."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint; if that fails, what was there before is kept."""
        with atomic_write(Path(path)) as unfinished, unfinished.open("wb") as file:
            torch.save(checkpoint, file)


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best weights by a metric; remembers them by file name alone, so that a run may be moved and copied."""

    def __init__(self, run: Path, score_metric: str, filename: str, save_top_k: int = 1) -> None:
        """Keeps the `save_top_k` best (-1: all) as `filename` without suffix, which may hold "{step}"."""
        super().__init__(
            dirpath=run,
            filename=filename,
            monitor=f"val/{score_metric}",
            mode="max",
            save_top_k=save_top_k,
            save_on_train_epoch_end=False,  # a validation that is made up for on resuming has no such end
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        """Two of them may watch one metric."""
        return f"{type(self).__name__}{{'monitor': {self.monitor!r}, 'filename': {self.filename!r}}}"

    def state_dict(self) -> dict[str, Any]:
        """Scores by file name."""
        state = super().state_dict()
        paths = {name: os.path.basename(state[name]) for name in PATHS}
        best = {os.path.basename(path): score for path, score in state["best_k_models"].items()}
        return {**state, **paths, "best_k_models": best, "dirpath": ""}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the files of this folder for the ones that are meant, and forgets those that are gone."""

        def here(path: str) -> str:
            return os.path.join(str(self.dirpath), os.path.basename(path)) if path else ""

        scores = {here(path): score for path, score in state_dict["best_k_models"].items()}
        scores = {path: score for path, score in scores.items() if os.path.exists(path)}
        state = {**state_dict, **{name: here(state_dict[name]) for name in PATHS}, "best_k_models": scores}
        if state["kth_best_model_path"] not in scores:
            state["kth_best_model_path"] = min(scores, key=lambda path: float(scores[path]), default="")
        super().load_state_dict({**state, "dirpath": self.dirpath})


PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
"""What `ModelCheckpoint` remembers of places."""


class MovingAverage(WeightAveraging):
    """An exponential moving average of the weights; it is what is validated and saved as the best.

    At the end of a training it leaves the weights what they are: a longer one may continue from them.
    """

    def __init__(self, decay: float) -> None:

        def average(averaged: Tensor, current: Tensor, count: Tensor) -> Tensor:
            # Lightning's own form, decay * averaged + (1 - decay) * current, rounds even where both are equal: frozen
            # weights would drift, and integers fall below their value.
            return torch.lerp(averaged, current, 1 - decay) if averaged.is_floating_point() else current

        super().__init__(avg_fn=average)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the average where the weights will lie: Lightning moves them later, and would leave it on the CPU."""
        if stage == "fit":
            pl_module.to(trainer.strategy.root_device)
        super().setup(trainer, pl_module, stage)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's own puts the average in their place, before the last checkpoint is written."""


def counts_steps(trainer: Trainer) -> bool:
    """Whether the length of a training is given in optimizer steps; otherwise it is in epochs."""
    return trainer.max_steps > 0


def validation_follows(trainer: Trainer, done: int) -> bool:
    """Whether the trainer validates after the batch that it has just done, the `done`-th of this epoch."""
    every = trainer.check_val_every_n_epoch
    if every is None:
        assert trainer.val_check_batch is not None
        return (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % int(trainer.val_check_batch) == 0
    return done == trainer.num_training_batches and (trainer.current_epoch + 1) % every == 0


class ResumePoint(Callback):
    """Keeps `last.ckpt` fresh, and turns Ctrl-C (or a cluster's SIGTERM) into a resumable stop after the running step.

    It is written every `every_steps`, before every validation, and at the end of every epoch, and only where no
    gradient is half accumulated. A stopped run ends with a `TrainingInterruptedError`; a second Ctrl-C stops at once. A
    validation that was due after the step of a checkpoint is made up for when the run continues from it. The end of
    every training is validated.
    """

    def __init__(self, path: Path, every_steps: int) -> None:
        self.path = path
        self.every_steps = every_steps
        self._asked_to_stop = False
        self._stopping = False
        self._validation_is_due = False
        self._validated_step = -1
        self._handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint says about the step that it was written at."""
        return {"validation_is_due": self._validation_is_due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it over."""
        self._validation_is_due = state_dict["validation_is_due"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes over the signals, and makes up for a validation that was still to come."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._ask_to_stop)
        self._make_up_for_validation(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is time to, or when a signal asked for it."""
        done = batch_idx + 1
        if done % trainer.accumulate_grad_batches and done != trainer.num_training_batches:
            return
        is_last = trainer.global_step == trainer.max_steps
        if is_last:  # nothing is left to stop; resumed here, no training begins, and `on_fit_end` validates
            self._stopping = False
        elif trainer.world_size > 1:
            self._stopping = trainer.strategy.reduce_boolean_decision(self._asked_to_stop, all=False)
        else:
            self._stopping = self._asked_to_stop
        follows = is_last or validation_follows(trainer, done)
        if self._stopping or follows or trainer.global_step % self.every_steps == 0:
            self._validation_is_due = follows
            self._save(trainer)
            self._validation_is_due = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stops before the next step; by now the metrics of the last one are logged."""
        self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops before a validation that is not waited for."""
        self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes note of what is validated."""
        if not trainer.sanity_checking:
            self._validated_step = trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves at the end of every epoch but the last, after its validation; not where the schedule counts steps."""
        self._stop_if_asked(trainer)
        if not counts_steps(trainer) and trainer.current_epoch + 1 != trainer.max_epochs:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validates the end, unless the last step is validated, and saves it."""
        if self._validated_step != trainer.global_step:
            _validate(trainer)
        self._save(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes up for a validation after the last step of all."""
        if self._validation_is_due:
            self._make_up_for_validation(trainer)
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the signals back."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _make_up_for_validation(self, trainer: Trainer) -> None:
        if self._validation_is_due:
            _validate(trainer)
            self._validation_is_due = False

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if self._stopping:
            raise TrainingInterruptedError(
                f"stopped at step {trainer.global_step}; continue with: {training_resumed(self.path.parent)}"
            )

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it outside its class
            return
        # Here it means "with the optimizer", and unsaid it is a line of log at every save. Loading is another matter:
        # that is always restricted to tensors and plain values.
        trainer.save_checkpoint(self.path, weights_only=False)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self._asked_to_stop:
            if self.path.is_file():
                resumed = training_resumed(self.path.parent)
                print(f"stopped at once; continue from the last checkpoint with: {resumed}", file=sys.stderr)
            raise KeyboardInterrupt
        self._asked_to_stop = True
        print("stopping after this step; once more stops at once", file=sys.stderr, flush=True)


def _validate(trainer: Trainer) -> None:
    """Runs a validation where the trainer itself has none."""
    validation = trainer.fit_loop.epoch_loop.val_loop
    validation.restarting = False  # what a checkpoint knows of is the validation before
    trainer.validating = True
    validation.run()
    trainer.training = True


HEADLINES = ("_AP", "mIoU", "top1")
"""Ends of the names of the metrics that are shown while a model trains."""


def progress(trainer: Trainer, epoch: int) -> str:
    """Where a training stands: "epoch 3/12" (epochs are counted from 0 inside), or "step 400/160000"."""
    if counts_steps(trainer):
        return f"step {trainer.global_step}/{trainer.max_steps}"
    return f"epoch {epoch + 1}/{trainer.max_epochs}"


class ValidationPictures(Callback):
    """Draws the predictions for the first validation images at every validation."""

    def __init__(self, folder: Path, count: int, draw: Callable[[int, Any, Path], None]) -> None:
        """Sets up; `draw` gets an image id, what was predicted, and the file to write."""
        self.folder = folder
        self.count = count
        self.draw = draw
        self._drawn = 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts again with the first image."""
        self._drawn = 0

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws what is still to be drawn of this batch."""
        if not trainer.is_global_zero:
            return
        images = zip(batch.image_ids, batch.file_names, outputs["predictions"], strict=True)
        for image_id, file_name, predicted in itertools.islice(images, self.count - self._drawn):
            self.draw(image_id, predicted, self.folder / f"{Path(file_name).stem}_{image_id}.png")
            self._drawn += 1


class PredictionFiles(Callback):
    """Hands the prediction of every validation image to a function that writes it, on the rank that made it."""

    def __init__(self, write: Callable[[str, Any], None]) -> None:
        """Sets up; `write` gets an image's file name and what was predicted."""
        self.write = write

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes what was predicted for this batch."""
        for file_name, predicted in zip(batch.file_names, outputs["predictions"], strict=True):
            self.write(file_name, predicted)


class ProgressLines(Callback):
    """One line every few batches, for logs that are no terminal."""

    def __init__(self, every: int) -> None:
        self.every = every
        self._begin = (0.0, 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._begin = (time.monotonic(), trainer.fit_loop.epoch_loop.total_batch_idx + 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints where the training is, the losses, the speed and the time left."""
        if not trainer.is_global_zero:
            return
        batches = int(trainer.num_training_batches)
        started, first = self._begin
        done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        if counts_steps(trainer):
            total, due = trainer.max_steps * trainer.accumulate_grad_batches, done % self.every == 0
            place = progress(trainer, trainer.current_epoch)
        else:
            total = batches * (trainer.max_epochs or 0)
            due = (batch_idx + 1) % self.every == 0 or batch_idx + 1 == batches
            place = f"{progress(trainer, trainer.current_epoch)} batch {batch_idx + 1}/{batches}"
        if not due:
            return
        seconds = (time.monotonic() - started) / (done - first)
        left = timedelta(seconds=round(seconds * max(total - done, 0)))
        # The module logs its means after the callbacks: those of the trainer are of the line before, or none.
        losses = _shown(cast(Any, pl_module).means, "train/", lambda name: "loss" in name)
        print(f"{place} {losses} | {seconds:.2f} s/batch, {left} left", file=sys.stderr, flush=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the headline metrics, with the epoch that they are of: after the last one the trainer is further."""
        metrics = _shown(trainer.callback_metrics, "val/", lambda name: name.endswith(HEADLINES))
        if trainer.is_global_zero and metrics:
            epoch = getattr(pl_module, "trained_epoch", trainer.current_epoch)
            print(f"{progress(trainer, epoch)} {metrics}", file=sys.stderr)


def _shown(values: Mapping[str, Any], prefix: str, wanted: Callable[[str], bool]) -> str:
    """The wanted values under a prefix, such as "loss 2.500 loss_rpn_cls 0.125"."""
    return " ".join(
        f"{name.removeprefix(prefix)} {float(value):.3f}"
        for name, value in sorted(values.items())
        if name.startswith(prefix) and wanted(name)
    )
