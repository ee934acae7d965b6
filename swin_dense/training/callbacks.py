"""What happens around the steps of a training: checkpoints to resume from, pictures, and progress in plain lines."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from swin_dense.errors import TrainingInterruptedError
from swin_dense.records import Batch


def counts_steps(trainer: Trainer) -> bool:
    """Whether the length of a training is given in optimizer steps; otherwise it is in epochs.

    Args:
        trainer: As it is built.
    """
    return trainer.max_steps > 0


def progress(trainer: Trainer) -> str:
    """Where a training stands.

    Args:
        trainer: In the middle of it.

    Returns:
        Such as "epoch 3/12", or "step 400/160000".
    """
    if counts_steps(trainer):
        return f"step {trainer.global_step}/{trainer.max_steps}"
    return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"


def validation_follows(trainer: Trainer, done: int) -> bool:
    """Whether the trainer validates after the batch that it has just done.

    Args:
        trainer: In the middle of a training.
        done: Batches of this epoch.
    """
    every = trainer.check_val_every_n_epoch
    if every is None:
        assert trainer.val_check_batch is not None
        return (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % int(trainer.val_check_batch) == 0
    return done == trainer.num_training_batches and (trainer.current_epoch + 1) % every == 0


class ResumePoint(Callback):
    """Keeps `last.ckpt` fresh, and turns Ctrl-C (or a cluster's SIGTERM) into a resumable stop after the running step.

    Checkpoints are only written where no gradient is half accumulated. The run then ends with a
    `TrainingInterruptedError`. A validation that was due after the step of a checkpoint is made up for when the run
    continues from it. A second Ctrl-C stops at once. The end of every training is validated.
    """

    def __init__(self, path: Path, every_steps: int) -> None:
        """Sets up.

        Args:
            path: The checkpoint file.
            every_steps: Optimizer steps between two checkpoints, besides the end of every epoch (or of the training,
                where its schedule counts steps).
        """
        self.path = path
        self.every_steps = every_steps
        self._asked_to_stop = False
        self._stopping = False
        self._validation_is_due = False
        self._validated_step = -1
        self._handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint says about the stop that it was written at."""
        return {"validation_is_due": self._validation_is_due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what a checkpoint says.

        Args:
            state_dict: Of `state_dict`.
        """
        self._validation_is_due = state_dict["validation_is_due"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes over the signals, and makes up for a validation that was still to come."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._ask_to_stop)
        if self._validation_is_due:
            _validate(trainer)
            self._validation_is_due = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is time to, or when a signal asked for it."""
        done = batch_idx + 1
        if done % trainer.accumulate_grad_batches and done != trainer.num_training_batches:
            return
        if trainer.global_step == trainer.max_steps:
            return  # a checkpoint of the last step resumes no training, and so no validation: `on_train_end` does both
        if trainer.world_size > 1:
            self._stopping = trainer.strategy.reduce_boolean_decision(self._asked_to_stop, all=False)
        else:
            self._stopping = self._asked_to_stop
        if self._stopping or trainer.global_step % self.every_steps == 0:
            self._validation_is_due = validation_follows(trainer, done)
            self._save(trainer)
            self._validation_is_due = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stops before the next step; by now the figures of the last one are logged."""
        self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops before a validation that nobody waits for."""
        self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes note of what is validated."""
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

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if self._stopping:
            raise TrainingInterruptedError(
                f"stopped at step {trainer.global_step}; continue with: swin-dense train --resume {self.path.parent}"
            )

    def _save(self, trainer: Trainer) -> None:
        # Here it means "with the optimizer", and unsaid it is a line of log at every save. Loading is another matter:
        # that is always restricted to tensors and plain values.
        trainer.save_checkpoint(self.path, weights_only=False)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self._asked_to_stop:
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


class ValidationPictures(Callback):
    """Draws the predictions for the first validation images, anew at every validation."""

    def __init__(self, folder: Path, count: int, draw: Callable[[int, Any, Path], None]) -> None:
        """Sets up.

        Args:
            folder: Where the pictures go.
            count: How many images are drawn.
            draw: Draws one image: gets its id, what was predicted, and the file to write.
        """
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
        """Sets up.

        Args:
            write: Writes one image's prediction: gets its file name and what was predicted.
        """
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
        """Sets up.

        Args:
            every: Batches from one line to the next.
        """
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
            place = progress(trainer)
        else:
            total = batches * (trainer.max_epochs or 0)
            due = (batch_idx + 1) % self.every == 0 or batch_idx + 1 == batches
            place = f"{progress(trainer)} batch {batch_idx + 1}/{batches}"
        if not due:
            return
        seconds = (time.monotonic() - started) / (done - first)
        left = timedelta(seconds=round(seconds * max(total - done, 0)))
        losses = " ".join(
            f"{name.removeprefix('train/')} {float(value):.3f}"
            for name, value in sorted(trainer.callback_metrics.items())
            if name.startswith("train/") and "loss" in name
        )
        print(f"{place} {losses} | {seconds:.2f} s/batch, {left} left", file=sys.stderr, flush=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the headline figures."""
        figures = [
            f"{name.removeprefix('val/')} {float(value):.3f}"
            for name, value in sorted(trainer.callback_metrics.items())
            if name.startswith("val/") and name.endswith(("_AP", "mIoU"))
        ]
        if trainer.is_global_zero and figures:
            print(f"{progress(trainer)} {' '.join(figures)}", file=sys.stderr)
