"""The Lightning module that trains any detector and scores it on COCO-format data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from swin_dense.inference.detection import DetectionInference, DetectionModel
from swin_dense.records import Batch, Detections
from swin_dense.training.base import DenseModule, Metric, Model
from swin_dense.training.optim import NO_DECAY, warmup_multistep


class Detector(Model, DetectionModel, Protocol):
    """A model that learns to find objects."""


class DetectionMetric(Metric, Protocol):
    """Scores detections against the ground truth of a data set."""

    def update(self, image_ids: Sequence[int], detections: Sequence[Detections]) -> None:
        """Takes the detections of some images."""


class DetectorModule(DenseModule):
    """Trains a detector; logs every figure of the metric as `val/KIND_FIGURE`, for instance `val/bbox_AP`."""

    def __init__(
        self,
        detector: Detector,
        metric: DetectionMetric,
        inference: DetectionInference,
        *,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.999),
        no_decay: Sequence[str] = NO_DECAY,
        layer_decay: float | None = None,
        epochs: int = 12,
        milestones: Sequence[int] = (8, 11),
        gamma: float = 0.1,
        warmup_steps: int = 500,
        warmup_ratio: float = 0.001,
        seed: int = 0,
    ) -> None:
        """Takes the parts; the defaults are the official 1x recipe.

        Args:
            detector: The model, an `nn.Module` with `losses` and `predict`.
            metric: Scores its detections.
            inference: How the detector is run on images.
            learning_rate: AdamW's.
            weight_decay: Of parameters whose name holds none of `no_decay`.
            betas: AdamW's.
            no_decay: Parts of parameter names.
            layer_decay: Factor on the learning rate from one layer of the backbone to the layer before it.
            epochs: Length of the training, which the trainer must share.
            milestones: Epochs after which the learning rate goes down.
            gamma: By this factor.
            warmup_steps: Optimizer steps of the linear warm-up.
            warmup_ratio: Its first factor.
            seed: Of the randomness inside a training step.
        """
        optimizer = {
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "betas": betas,
            "no_decay": no_decay,
            "layer_decay": layer_decay,
        }
        super().__init__(detector, metric, optimizer, seed)
        self.inference = inference
        self.schedule_options: dict[str, Any] = {
            "milestones": milestones,
            "gamma": gamma,
            "warmup_steps": warmup_steps,
            "warmup_ratio": warmup_ratio,
        }
        self.epochs = epochs

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, list[Detections]]:
        """Predicts a batch and hands it to the metric.

        Args:
            batch: Images at the size that they have on disk.
            batch_idx: Position in the validation set.

        Returns:
            {"predictions": one per image}, for callbacks that draw them.
        """
        detections = self.inference.predict(cast(Detector, self.model), batch)
        cast(DetectionMetric, self.metric).update(batch.image_ids, detections)
        return {"predictions": detections}

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Warm-up, then steps down after some of the epochs."""
        steps_per_epoch = int(self.trainer.estimated_stepping_batches) // self.epochs
        return warmup_multistep(optimizer, steps_per_epoch=max(steps_per_epoch, 1), **self.schedule_options)
