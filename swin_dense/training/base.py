"""What every Lightning module of ours does: losses in, one optimizer step out, tied to its place in the training."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from swin_dense.data.samples import Batch
from swin_dense.errors import TrainingError
from swin_dense.training.optim import adamw


class Model(Protocol):
    """A model that learns from batches; itself an `nn.Module`.

    Attributes:
        network: The module whose parameters are saved as weights.
    """

    network: nn.Module

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar terms by name; those with "loss" in their name are minimised."""


class DenseModule(LightningModule):
    """Glue between a model, its loss terms and its optimizer; what it is scored on is up to the task.

    Logs every loss term as `train/NAME` and their sum as `train/loss`.

    Attributes:
        model: The model.
        scores: Result of the last validation.
    """

    def __init__(self, model: Model, optimizer: Mapping[str, Any], seed: int) -> None:
        """Takes the parts.

        Args:
            model: An `nn.Module` with `network` and `losses`.
            optimizer: Keyword arguments of `adamw`.
            seed: Of the randomness inside a training step.
        """
        super().__init__()
        self.model = cast(nn.Module, model)
        self.optimizer_options = optimizer
        self.seed = seed
        self.scores: dict[str, Any] = {}

    @property
    def network(self) -> nn.Module:
        """The module whose parameters are the weights, without the glue around it."""
        return cast(Model, self.model).network

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Ties dropout, drop path and the heads' sampling to the place of the step in the training."""
        seed_step(self.seed, self.current_epoch, batch_idx, self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch.

        Args:
            batch: Images with what is to be learnt of them.
            batch_idx: Position in the epoch.

        Returns:
            Scalar.

        Raises:
            TrainingError: It is not finite.
        """
        terms = cast(Model, self.model).losses(batch)
        total = total_loss(terms, batch)
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(batch))
        self.log_dict(
            {f"train/{name}": value.detach() for name, value in terms.items() if name != "loss"}, batch_size=len(batch)
        )
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=len(batch))
        return total

    def configure_optimizers(self) -> Any:
        """AdamW and the schedule, stepped after every optimizer step."""
        optimizer = adamw(self.model, **self.optimizer_options)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"}}

    @abstractmethod
    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """The learning-rate schedule of the task."""


def seed_step(seed: int, epoch: int, batch: int, rank: int) -> None:
    """Makes the randomness of a training step depend on its place alone, so that a resumed run draws the same.

    Args:
        seed: Of the run.
        epoch: Counted from 0.
        batch: Position in the epoch.
        rank: Of the process; every rank draws differently.
    """
    words = np.random.SeedSequence((seed, epoch, batch, rank)).generate_state(3)
    torch.manual_seed(int(words[0]))
    np.random.seed(int(words[1]))
    random.seed(int(words[2]))


def total_loss(terms: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Adds up the terms that are to be minimised.

    Args:
        terms: Scalars by name.
        batch: Where they come from.

    Returns:
        Scalar.

    Raises:
        TrainingError: The sum is not finite; names the terms and the images.
    """
    total = torch.stack([value for name, value in terms.items() if "loss" in name]).sum()
    if not torch.isfinite(total):
        broken = ", ".join(f"{name}={value.item():g}" for name, value in terms.items() if not torch.isfinite(value))
        images = ", ".join(f"{i} ({name})" for i, name in zip(batch.image_ids, batch.file_names, strict=True))
        raise TrainingError(
            f"the loss is not finite ({broken}) in the batch of images {images}; look at their annotations with "
            "swin-dense check-data, lower optimizer.learning_rate, or set training.clip_gradient_norm"
        )
    return total
