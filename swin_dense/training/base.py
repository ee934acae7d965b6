"""What every Lightning module of ours does: losses in, one optimizer step out, tied to its place in the training."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from swin_dense.errors import ConfigError, TrainingError
from swin_dense.records import Batch
from swin_dense.training.optim import adamw


class Model(Protocol):
    """A model that learns from batches; itself an `nn.Module`.

    Attributes:
        network: The module whose parameters are saved as weights.
    """

    network: nn.Module

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar terms by name; those with "loss" in their name are minimised."""


class Metric(Protocol):
    """Scores predictions against the ground truth of a data set; how it takes them is up to the task."""

    @property
    def figure_names(self) -> Sequence[str]:
        """What `val/NAME` there will be."""

    def compute(self) -> dict[str, Any]:
        """Figures by name, or by kind and name; "per_class" ones apart. The same on every rank."""

    def reset(self) -> None:
        """Forgets every prediction."""


class DenseModule(LightningModule):
    """Glue between a model, its loss terms, its optimizer and its score.

    Logs every loss term as `train/NAME`, their sum as `train/loss`, and every figure of the metric as `val/NAME` or
    `val/KIND_NAME`.

    Attributes:
        model: The model.
        scores: Result of the last validation.
    """

    def __init__(self, model: Model, metric: Metric, optimizer: Mapping[str, Any], seed: int) -> None:
        """Takes the parts.

        Args:
            model: An `nn.Module` with `network` and `losses`.
            metric: Scores its predictions.
            optimizer: Keyword arguments of `adamw`.
            seed: Of the randomness inside a training step.
        """
        super().__init__()
        self.model = cast(nn.Module, model)
        self.metric = metric
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

    def on_after_backward(self) -> None:
        """Refuses parameters without a gradient where several processes wait for it; alone, they just stay as they are.

        Raises:
            ConfigError: Names them.
        """
        if self.trainer.world_size == 1 or self.trainer.global_step > 0:
            return
        parameters = self.network.named_parameters()
        idle = [name.rpartition(".")[0] for name, one in parameters if one.requires_grad and one.grad is None]
        if idle := list(dict.fromkeys(idle)):
            more = f" and {len(idle) - 4} more" if len(idle) > 4 else ""
            raise ConfigError(
                f"model: nothing is learnt by {', '.join(idle[:4])}{more}, which several processes cannot train "
                "together: no head reads what comes of them. Leave such maps of the backbone out with "
                "model.backbone.out_indices (the heads' in_index counts those that are left), or train with --devices 1"
            )

    def on_validation_epoch_start(self) -> None:
        """Forgets what an interrupted validation may have left."""
        self.metric.reset()

    def on_validation_epoch_end(self) -> None:
        """Scores what every rank has predicted and logs the figures, which are the same on every rank."""
        if self.trainer.sanity_checking:
            return
        self.scores = self.metric.compute()
        for name, value in figures(self.scores):
            self.log(f"val/{name}", value, prog_bar=name.endswith(("_AP", "mIoU")), rank_zero_only=False)

    def configure_optimizers(self) -> Any:
        """AdamW and the schedule, stepped after every optimizer step."""
        optimizer = adamw(self.model, **self.optimizer_options)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"}}

    @abstractmethod
    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """The learning-rate schedule of the task."""


def figures(scores: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The figures over the whole data set, without those of single classes.

    Args:
        scores: Of a metric.

    Yields:
        Such as ("mIoU", 44.5) or ("bbox_AP", 0.41).
    """
    for name, value in scores.items():
        if name == "per_class":
            continue
        if isinstance(value, Mapping):
            yield from ((f"{name}_{figure}", one) for figure, one in value.items() if figure != "per_class")
        else:
            yield name, value


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
