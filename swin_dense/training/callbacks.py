"""What happens around the steps of a training besides checkpoints: pictures, and progress in plain lines."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from swin_dense.records import Batch
from swin_dense.training.checkpoints import counts_steps


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
        """Sets the number of batches from one line to the next."""
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
        losses = _shown(trainer, "train/", lambda name: "loss" in name)
        print(f"{place} {losses} | {seconds:.2f} s/batch, {left} left", file=sys.stderr, flush=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the headline metrics, with the epoch that they are of: after the last one the trainer is further."""
        metrics = _shown(trainer, "val/", lambda name: name.endswith(("_AP", "mIoU")))
        if trainer.is_global_zero and metrics:
            epoch = getattr(pl_module, "trained_epoch", trainer.current_epoch)
            print(f"{progress(trainer, epoch)} {metrics}", file=sys.stderr)


def _shown(trainer: Trainer, prefix: str, wanted: Callable[[str], bool]) -> str:
    """The last values that are logged under a prefix, such as "loss 2.500 loss_rpn_cls 0.125"."""
    return " ".join(
        f"{name.removeprefix(prefix)} {float(value):.3f}"
        for name, value in sorted(trainer.callback_metrics.items())
        if name.startswith(prefix) and wanted(name)
    )
