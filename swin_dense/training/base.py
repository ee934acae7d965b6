"""What a Lightning module of ours asks of the model and the metric that it is handed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from swin_dense.data.samples import Batch, Detections
from swin_dense.errors import TrainingError


class Detector(Protocol):
    """A model that learns from batches and finds objects; itself an `nn.Module`.

    Attributes:
        network: The module whose parameters are saved as weights.
    """

    network: nn.Module

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar terms by name; those with "loss" in their name are minimised."""

    def predict(self, batch: Batch) -> list[Detections]:
        """The objects of each image, in pixels of the image on disk."""


class Metric(Protocol):
    """Scores detections against the ground truth of a data set."""

    def update(self, image_ids: Sequence[int], detections: Sequence[Detections]) -> None:
        """Takes the detections of some images."""

    def compute(self) -> dict[str, dict[str, Any]]:
        """Figures by kind, for instance {"bbox": {"AP": 0.41, ...}}; the same on every rank."""

    def results(self) -> list[dict[str, Any]]:
        """Every detection as a row of a result file."""

    def reset(self) -> None:
        """Forgets every detection."""


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
