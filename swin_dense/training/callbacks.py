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

from swin_dense.data.samples import Batch, Detections
from swin_dense.errors import TrainingInterruptedError


class ResumePoint(Callback):
    """Keeps `last.ckpt` fresh, and turns Ctrl-C (or a cluster's SIGTERM) into a resumable stop after the running step.

    Checkpoints are only written where no gradient is half accumulated. The run then ends with a
    `TrainingInterruptedError`. A second Ctrl-C stops at once.
    """

    def __init__(self, path: Path, every_steps: int) -> None:
        """Sets up.

        Args:
            path: The checkpoint file.
            every_steps: Optimizer steps between two checkpoints, besides the end of every epoch.
        """
        self.path = path
        self.every_steps = every_steps
        self._asked_to_stop = False
        self._stopping = False
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes over the signals."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._ask_to_stop)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is time to, or when a signal asked for it."""
        done = batch_idx + 1
        if done % trainer.accumulate_grad_batches and done != trainer.num_training_batches:
            return
        if trainer.world_size > 1:
            self._stopping = trainer.strategy.reduce_boolean_decision(self._asked_to_stop, all=False)
        else:
            self._stopping = self._asked_to_stop
        if self._stopping or trainer.global_step % self.every_steps == 0:
            self._save(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stops before the next step; by now the figures of the last one are logged."""
        self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops before a validation that nobody waits for."""
        self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves at the end of every epoch, after its validation."""
        self._stop_if_asked(trainer)
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
        # "Not weights only" means with the optimizer; loading is always restricted to tensors and plain values.
        trainer.save_checkpoint(self.path, weights_only=False)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self._asked_to_stop:
            raise KeyboardInterrupt
        self._asked_to_stop = True
        print("stopping after this step; once more stops at once", file=sys.stderr, flush=True)


class ValidationPictures(Callback):
    """Draws the predictions for the first validation images, anew at every validation."""

    def __init__(self, folder: Path, count: int, draw: Callable[[int, Detections, Path], None]) -> None:
        """Sets up.

        Args:
            folder: Where the pictures go.
            count: How many images are drawn.
            draw: Draws one image: gets its id, its detections, and the file to write.
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
        images = zip(batch.image_ids, batch.file_names, outputs["detections"], strict=True)
        for image_id, file_name, detections in itertools.islice(images, self.count - self._drawn):
            self.draw(image_id, detections, self.folder / f"{Path(file_name).stem}_{image_id}.png")
            self._drawn += 1


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
        batches = int(trainer.num_training_batches)
        if not trainer.is_global_zero or ((batch_idx + 1) % self.every and batch_idx + 1 != batches):
            return
        started, first = self._begin
        done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        seconds = (time.monotonic() - started) / (done - first)
        left = timedelta(seconds=round(seconds * (batches * (trainer.max_epochs or 0) - done)))
        losses = " ".join(
            f"{name.removeprefix('train/')} {float(value):.3f}"
            for name, value in sorted(trainer.callback_metrics.items())
            if name.startswith("train/") and "loss" in name
        )
        print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs} batch {batch_idx + 1}/{batches} "
            f"{losses} | {seconds:.2f} s/batch, {left} left",
            file=sys.stderr,
            flush=True,
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the headline figures."""
        figures = [
            f"{name.removeprefix('val/')} {float(value):.3f}"
            for name, value in sorted(trainer.callback_metrics.items())
            if name.startswith("val/") and name.endswith("_AP")
        ]
        if trainer.is_global_zero and figures:
            print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs} {' '.join(figures)}", file=sys.stderr)
