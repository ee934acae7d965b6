"""What the Lightning data modules of all image tasks share: their settings, and their ties to the trainer."""

from __future__ import annotations

import logging
from abc import abstractmethod
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule

from swin_dense.data.transforms import Transform
from swin_dense.errors import DataError, check_lowest
from swin_dense.records import Batch

logger = logging.getLogger(__name__)


class ImageDataModule(LightningDataModule):
    """Data of which batches are `Batch`es, for training and validation.

    The trainer must be built with `use_distributed_sampler=False`: the samplers know rank and world size themselves. An
    epoch that a checkpoint interrupted goes on with exactly the next batch (see `ResumableLoader`).

    Attributes:
        path_notes: What to add to an error about a path, for instance where the path came from; empty at first.
    """

    def __init__(
        self,
        *,
        train_transform: Transform,
        test_transform: Transform,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        seed: int,
        limit_images: int | None,
    ) -> None:
        """Takes note of the settings.

        Args:
            train_transform: Applied to training samples; drawn anew for every (seed, epoch, index).
            test_transform: Applied to validation samples.
            batch_size: Training images per device.
            eval_batch_size: Validation images per device.
            num_workers: Reading processes per device; 0 reads in the training process.
            seed: Order and randomness of the training samples derive from it.
            limit_images: Use only the first images of training and of validation; None uses all.

        Raises:
            ConfigError: A number is out of range.
        """
        super().__init__()
        self.train_transform = train_transform
        self.test_transform = test_transform
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.limit_images = limit_images
        self.path_notes: dict[Path, str] = {}
        check_lowest("data", self, batch_size=1, eval_batch_size=1, num_workers=0, seed=0, limit_images=1)

    def setup(self, stage: str) -> None:
        """Reads what the stage needs; a second call reads nothing again.

        Args:
            stage: "fit" needs both splits; "validate" leaves the training data alone, so that it may be absent.

        Raises:
            SwinDenseError: As `read_splits` does; an error that begins with a path of `path_notes` ends with its note.
        """
        try:
            self.read_splits(stage)
        except DataError as error:
            error.args = (self._with_note(str(error)),)
            raise

    @abstractmethod
    def read_splits(self, stage: str) -> None:
        """Reads what `setup` promises."""

    def _with_note(self, message: str) -> str:
        """The note goes to the end of the first line; the others list problems."""
        first, newline, others = message.partition("\n")
        path = max((path for path in map(str, self.path_notes) if first.startswith(path)), key=len, default=None)
        return message if path is None else f"{first} ({self.path_notes[Path(path)]}){newline}{others}"

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Moves a batch; from pinned memory without waiting for the copy."""
        return batch.to(device, non_blocking=device.type == "cuda")

    def on_exception(self, exception: BaseException) -> None:
        """Ends the workers of training too: Lightning tears down only the loop that failed, which may be validation."""
        if self.trainer:
            self.trainer.fit_loop.teardown()

    def _rank_and_world_size(self) -> tuple[int, int]:
        """Of the trainer; without one this is the only process."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _position(self) -> tuple[int, int]:
        """Epoch and batch at which the trainer stands; the beginning without one."""
        return (self.trainer.current_epoch, self.trainer.fit_loop.batch_idx + 1) if self.trainer else (0, 0)

    def _log_limit(self, name: str, count: int) -> None:
        """Says how much of the data is left out."""
        if self.limit_images is not None:
            logger.info("%s uses the first %d of %d images (limit_images)", name, min(self.limit_images, count), count)
