"""Classifiers on images: the glue around a network of logits, and how whole images become probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.records import Batch, Classification

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""Of ImageNet's pixels, RGB in 0..255, with which all published classifiers were trained."""


class ImageClassifier(nn.Module):
    """A network of logits behind its normalisation."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        """Takes a network from normalised images (B, 3, H, W) to logits (B, K)."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def normalised(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) RGB in 0..255 as the network takes them, float32."""
        return (images.float() - self.mean) / self.std

    def logits(self, images: Tensor) -> Tensor:
        """The logits (B, K), float32, of RGB images (B, 3, H, W) in 0..255."""
        logits: Tensor = self.network(self.normalised(images))
        return logits.float()


@dataclass(frozen=True)
class ClassificationInference:
    """How images are classified.

    Attributes:
        view: Makes of an image (3, H, W) uint8 what the model sees, of one size for all; None shows images as they are.
        flip: Whether each image is also seen mirrored; the probabilities are averaged.
    """

    view: Callable[[Tensor], Tensor] | None = None
    flip: bool = False

    @torch.inference_mode()
    def predict(self, model: Any, batch: Batch) -> list[Classification]:
        """Classifies the images of a batch with a model that has `logits`."""
        images = batch.images
        if self.view is not None:
            sizes = zip(batch.images, batch.sizes, strict=True)
            images = torch.stack([self.view(image[:, :height, :width]) for image, (height, width) in sizes])
        probabilities = model.logits(images).softmax(dim=-1)
        if self.flip:
            probabilities = (probabilities + model.logits(images.flip(-1)).softmax(dim=-1)) / 2
        return [Classification(one) for one in probabilities]
