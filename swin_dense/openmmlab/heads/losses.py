"""Losses of RepPoints V2 that mmdet lacks, built from model dicts like its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class InclusiveGIoULoss(nn.Module):
    """Generalised IoU loss (arXiv 1902.09630) of boxes whose last pixel belongs to them: width = x2 - x1 + 1.

    RepPoints V2 measures boxes in units of four strides before it compares them, so the 1 is most of a box there.
    Points start in one place, as boxes without area, and this gives them a gradient that the plain loss lacks.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        """Takes note of the weight.

        Args:
            loss_weight: Factor of the loss.
        """
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, predicted: Tensor, target: Tensor, avg_factor: float) -> Tensor:
        """The sum over pairs of boxes, divided by `avg_factor`.

        Args:
            predicted: (N, 4) XYXY.
            target: (N, 4) XYXY.
            avg_factor: What the sum is divided by.

        Returns:
            A scalar; 0 where there are no boxes.
        """
        overlap = _area(torch.maximum(predicted[:, :2], target[:, :2]), torch.minimum(predicted[:, 2:], target[:, 2:]))
        hull = _area(torch.minimum(predicted[:, :2], target[:, :2]), torch.maximum(predicted[:, 2:], target[:, 2:]))
        sizes = [boxes[:, 2:] - boxes[:, :2] + 1 for boxes in (predicted, target)]
        union = sizes[0].prod(dim=1) + sizes[1].prod(dim=1) - overlap + 1e-6  # a bound would hold inverted boxes fast
        hull = hull + 1e-6
        giou = overlap / union - (hull - union) / hull
        return self.loss_weight * (1 - giou).sum() / avg_factor


class ForegroundFocalLoss(nn.Module):
    """Focal loss of the foreground branch (RepPoints V2, section 3.3), positives and negatives normalised apart.

    Positives are weighted by one over the area of their object, so that large objects count no more than small ones,
    and divided by the sum of these weights; negatives are divided by the number of positives.
    """

    def __init__(self, gamma: float = 2.0, alpha: float = 0.25, loss_weight: float = 1.0) -> None:
        """Takes note of the parameters.

        Args:
            gamma: How much less certain predictions count.
            alpha: Share of the positives.
            loss_weight: Factor of the loss.
        """
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha
        self.loss_weight = loss_weight

    def forward(self, logits: Tensor, weights: Tensor) -> Tensor:
        """The loss of predictions.

        Args:
            logits: Any shape.
            weights: The same shape; the weight of a positive, 0 for a negative.

        Returns:
            A scalar.
        """
        is_positive = weights > 0
        chance = logits.sigmoid()
        positive = functional.softplus(-logits) * (1 - chance) ** self.gamma * weights
        negative = functional.softplus(logits) * chance**self.gamma * ~is_positive
        positive_mean = positive.sum() / weights.sum().clamp(min=1e-12)
        negative_mean = negative.sum() / is_positive.sum().clamp(min=1)
        return self.loss_weight * (self.alpha * positive_mean + (1 - self.alpha) * negative_mean)


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    """Pixels from one corner to the other, both included; 0 where they lie the other way round."""
    return (bottom_right - top_left + 1).clamp(min=0).prod(dim=1)
