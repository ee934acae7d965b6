"""What the Lightning data modules of all image tasks share: their settings, and their ties to the trainer."""

from __future__ import annotations

import logging
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray

from swin_dense.data.loaders import BatchLoader, ResumableLoader
from swin_dense.data.samplers import EvaluationSampler, TrainBatchSampler
from swin_dense.data.transforms import ImageOnly, Transform
from swin_dense.devices import usable_cores
from swin_dense.errors import DataError, check_lowest
from swin_dense.records import Batch

logger = logging.getLogger(__name__)


class ImageDataModule(LightningDataModule):
    """Data of which batches are `Batch`es, for training and validation, which is also what is tested and predicted.

    An epoch that a checkpoint interrupted goes on with exactly the next batch (see `ResumableLoader`).

    Attributes:
        path_notes: What to add to an error about a path, for instance where the path came from; empty at first.
        size_divisor: Batches are padded to a multiple of this.
        train_dataset: The training images; None until `setup("fit")`.
        val_dataset: The validation images; None until `setup`.
    """

    size_divisor: int = 1
    train_dataset: Any = None
    val_dataset: Any = None

    def __init__(
        self,
        *,
        train_transform: Transform,
        test_transform: Transform,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int | None,
        seed: int,
        limit_images: int | None,
    ) -> None:
        """Takes note of the settings, which the data modules of the tasks describe."""
        super().__init__()
        self.train_transform = train_transform
        self.test_transform = test_transform
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = min(4, usable_cores()) if num_workers is None else num_workers
        self.seed = seed
        self.limit_images = limit_images
        self.path_notes: dict[Path, str] = {}
        check_lowest("data", self, batch_size=1, eval_batch_size=1, num_workers=0, seed=0, limit_images=1)

    def setup(self, stage: str) -> None:
        """Reads what the stage needs; a second call reads nothing again. "validate" leaves the training data alone.

        An error that begins with a path of `path_notes` ends with its note.
        """
        try:
            if self.val_dataset is None:
                self.val_dataset = self.read_val()
                self._log_limit("validation", len(self.val_dataset))
            if stage == "fit" and self.train_dataset is None:
                self.train_dataset = self.read_train()
                self._log_limit("training", len(self.train_dataset))
        except DataError as error:
            error.args = (self._with_note(str(error)),)
            raise

    @abstractmethod
    def read_val(self) -> Any:
        """The validation data set, and what the classes are; the first that is read."""

    @abstractmethod
    def read_train(self) -> Any:
        """The training data set."""

    @property
    def val_image_ids(self) -> tuple[int, ...]:
        """Ids of the images that validation predicts on, over all ranks; after `setup`. By default their positions."""
        assert self.val_dataset is not None, "call setup first"
        return tuple(range(len(self.val_dataset))[: self.limit_images])

    def image_sizes(self) -> NDArray[np.integer]:
        """(n, 2) height and width of the training images, which batches are sorted by; all alike where one is cut."""
        assert self.train_dataset is not None
        return np.ones((len(self.train_dataset), 2), int)

    def train_dataloader(self) -> ResumableLoader:
        """The loader of this rank's training batches, each a `Batch` with what is to be learnt."""
        assert self.train_dataset is not None, 'call setup("fit") first'
        sizes = self.image_sizes()[: self.limit_images]
        sampler = TrainBatchSampler(sizes, self.batch_size, self.seed, *self._rank_and_world_size())
        options = {"num_workers": self.num_workers, "size_divisor": self.size_divisor}
        return ResumableLoader(self.train_dataset, self.train_transform, sampler, self._position, **options)

    def val_dataloader(self) -> BatchLoader:
        """The loader of this rank's validation batches, in the order of the data set.

        They carry no instances, since the metric reads its own ground truth; label maps are as they are on disk.
        """
        assert self.val_dataset is not None, "call setup first"
        sampler = EvaluationSampler(len(self.val_image_ids), self.eval_batch_size, *self._rank_and_world_size())
        options = {"num_workers": self.num_workers, "size_divisor": self.size_divisor}
        return BatchLoader(self.val_dataset, ImageOnly(self.test_transform), sampler, **options)

    test_dataloader = val_dataloader
    predict_dataloader = val_dataloader

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
        """Epoch and batch at which the trainer stands; the beginning without one. Overfitting repeats one epoch."""
        if not self.trainer:
            return 0, 0
        epoch = 0 if getattr(self.trainer, "overfit_batches", 0) else self.trainer.current_epoch
        return epoch, self.trainer.fit_loop.batch_idx + 1

    def _log_limit(self, name: str, count: int) -> None:
        """Says how much of the data is left out."""
        if self.limit_images is not None:
            logger.info("%s uses the first %d of %d images (limit_images)", name, min(self.limit_images, count), count)
