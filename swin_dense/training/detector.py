"""The Lightning module that trains any detector and scores it on COCO-format data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from swin_dense.inference.detection import DetectionInference
from swin_dense.inference.views import EvaluationSize
from swin_dense.metrics import CocoMetric
from swin_dense.records import Batch, Detections
from swin_dense.training.base import DenseModule, configured_inference
from swin_dense.training.optim import NO_DECAY, steps_per_epoch, warmup_multistep


class DetectorModule(DenseModule):
    """Trains a detector with any Lightning trainer; logs metrics as `val/KIND_METRIC`, for instance `val/bbox_AP`.

    The length of the training is the trainer's: `Trainer(max_epochs=36).fit(DetectorModule(model), datamodule=data)`.

    Example:
        >>> import torch
        >>> from swin_dense.training import DetectorModule
        >>> class Model(torch.nn.Module):
        ...     has_masks = False
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = torch.nn.Linear(1, 1)  # any detector; swin_dense.load(...) gives one
        >>> module = DetectorModule(Model(), learning_rate=5e-5)
        >>> module.hparams.learning_rate, module.hparams.milestones
        (5e-05, None)
    """

    def __init__(
        self,
        model: Any,
        metric: Any = None,
        inference: DetectionInference | None = None,
        *,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.999),
        no_decay: Sequence[str] = NO_DECAY,
        layer_decay: float | None = None,
        milestones: Sequence[int] | None = None,
        gamma: float = 0.1,
        warmup_steps: int = 500,
        warmup_ratio: float = 0.001,
        seed: int = 0,
        patience: int = 10,
    ) -> None:
        """Takes the parts; the defaults are the official recipe.

        Args:
            model: What `swin_dense.load` gives, or an `nn.Module` with `network`, `losses`, `predict` and `has_masks`.
            metric: Scores its detections; None makes a `CocoMetric` of the trainer's data module.
            inference: How the detector is run on images; None does as the config of what `swin_dense.load` gives, or
                shows each once, within 800 and 1333 pixels.
            learning_rate: AdamW's.
            weight_decay: Of parameters whose name holds none of `no_decay`.
            betas: AdamW's.
            no_decay: Parts of parameter names.
            layer_decay: Factor on the learning rate from one layer of the backbone to the layer before it.
            milestones: Epochs after which the learning rate goes down; None takes 2/3 and 11/12 of the trainer's.
            gamma: By this factor.
            warmup_steps: Optimizer steps of the linear warm-up.
            warmup_ratio: Its first factor.
            seed: Of the randomness inside a training step.
            patience: Batches in a row whose loss may be not finite in float16, where the gradient scaler skips them.
        """
        optimizer = {
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "betas": betas,
            "no_decay": no_decay,
            "layer_decay": layer_decay,
        }
        inference = inference or configured_inference(model) or DetectionInference(EvaluationSize(800, 1333))
        super().__init__(model, metric, inference, optimizer, seed, patience)
        self.save_hyperparameters(ignore=["model", "metric", "inference"])
        self.milestones = milestones
        self.schedule_options = {"gamma": gamma, "warmup_steps": warmup_steps, "warmup_ratio": warmup_ratio}

    def make_metric(self, data: Any, images: int | None = None) -> CocoMetric:
        """COCO's metrics on the first `images` validation images of a `CocoDataModule` that is set up; None for all."""
        return CocoMetric(
            data.val_annotations,
            category_ids=data.category_ids,
            class_names=data.class_names,
            image_ids=data.val_image_ids[:images],
            iou_types=("bbox", "segm") if self.model.has_masks else ("bbox",),
        )

    def score(self, batch: Batch, predictions: list[Detections]) -> None:
        """Hands the detections of a batch to the metric."""
        self.metric.update(batch.image_ids, predictions)

    def schedule(self, optimizer: Optimizer) -> LambdaLR:
        """Warm-up, then steps down after some of the epochs."""
        steps = steps_per_epoch(self.trainer)
        milestones = self.milestones
        if milestones is None:
            epochs = int(self.trainer.estimated_stepping_batches) // steps
            milestones = [max(1, epochs * 2 // 3), max(1, epochs * 11 // 12)]  # not before the first epoch ends
        return warmup_multistep(optimizer, milestones=milestones, steps_per_epoch=steps, **self.schedule_options)
