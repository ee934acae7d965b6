"""The Lightning modules that train any detector or segmenter and score it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from swin_dense.errors import ConfigError
from swin_dense.inference import EvaluationSize
from swin_dense.inference.detection import DetectionInference
from swin_dense.inference.segmentation import SegmentationInference
from swin_dense.metrics import CocoMetric, MeanIoU
from swin_dense.records import IGNORE_INDEX, Batch, Detections, Segmentation
from swin_dense.training.base import DenseModule, configured_inference
from swin_dense.training.optim import NO_DECAY, polynomial_factor, steps_per_epoch, warmup_multistep


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
        compile: bool = False,
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
            compile: Compile the backbone when a training begins (`SwinTransformer.compile`).
        """
        inference = inference or configured_inference(model) or DetectionInference(EvaluationSize(800, 1333))
        super().__init__(model, metric, inference)
        self.save_hyperparameters(ignore=["model", "metric", "inference"])

    def make_metric(self, data: Any, images: int | None = None, **options: Any) -> CocoMetric:
        """COCO's metrics on the first `images` validation images of a `CocoDataModule` that is set up; None for all."""
        return CocoMetric(
            data.ground_truth,
            category_ids=data.category_ids,
            class_names=data.class_names,
            image_ids=data.val_image_ids[:images],
            iou_types=("bbox", "segm") if self.model.has_masks else ("bbox",),
            **options,
        )

    def score(self, batch: Batch, predictions: list[Detections]) -> None:
        """Hands the detections of a batch to the metric."""
        self.metric.update(batch.image_ids, predictions)

    def schedule(self, optimizer: Optimizer) -> LambdaLR:
        """Warm-up, then steps down after some of the epochs."""
        steps, settings = steps_per_epoch(self.trainer), self.hparams
        if (milestones := settings["milestones"]) is None:
            epochs = int(self.trainer.estimated_stepping_batches) // steps
            milestones = [max(1, epochs * 2 // 3), max(1, epochs * 11 // 12)]  # not before the first epoch ends
        options = {name: settings[name] for name in ("gamma", "warmup_steps", "warmup_ratio")}
        return warmup_multistep(optimizer, milestones=milestones, steps_per_epoch=steps, **options)


class SegmenterModule(DenseModule):
    """Trains a segmenter with any Lightning trainer; logs metrics as `val/METRIC`, for instance `val/mIoU`.

    The length of the training is the trainer's: `Trainer(max_steps=160_000).fit(SegmenterModule(model),
    datamodule=data)`.

    Example:
        >>> import torch
        >>> from swin_dense.training import SegmenterModule
        >>> class Model(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = torch.nn.Linear(1, 1)  # any segmenter; swin_dense.load(...) gives one
        >>> module = SegmenterModule(Model(), power=0.9)
        >>> module.hparams.learning_rate, module.hparams.power
        (6e-05, 0.9)
    """

    def __init__(
        self,
        model: Any,
        metric: Any = None,
        inference: SegmentationInference | None = None,
        *,
        learning_rate: float = 6e-5,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        no_decay: Sequence[str] = NO_DECAY,
        layer_decay: float | None = None,
        power: float = 1.0,
        warmup_steps: int = 1500,
        warmup_ratio: float = 1e-6,
        seed: int = 0,
        patience: int = 10,
        compile: bool = False,
    ) -> None:
        """Takes the parts; the defaults are the official ADE20K recipe.

        Args:
            model: What `swin_dense.load` gives, or an `nn.Module` with `network`, `losses` and `logits`.
            metric: Scores its label maps; None makes a `MeanIoU` of the trainer's data module.
            inference: Makes label maps of its logits; None does as the config of what `swin_dense.load` gives, or sees
                each image whole, at its own size.
            learning_rate: AdamW's.
            weight_decay: Of parameters whose name holds none of `no_decay`.
            betas: AdamW's.
            no_decay: Parts of parameter names.
            layer_decay: Factor on the learning rate from one layer of the backbone to the layer before it.
            power: Of the decay to zero at the trainer's last step; 1 is a straight line.
            warmup_steps: Optimizer steps of the linear warm-up.
            warmup_ratio: Its first factor.
            seed: Of the randomness inside a training step.
            patience: Batches in a row whose loss may be not finite in float16, where the gradient scaler skips them.
            compile: Compile the backbone when a training begins (`SwinTransformer.compile`).
        """
        inference = inference or configured_inference(model) or SegmentationInference(EvaluationSize(None, None))
        super().__init__(model, metric, inference)
        self.save_hyperparameters(ignore=["model", "metric", "inference"])

    def make_metric(self, data: Any, images: int | None = None, **options: Any) -> MeanIoU:
        """Mean IoU of the first `images` validation images of an `ADE20KDataModule` that is set up; None for all."""
        return MeanIoU(data.class_names, data.val_image_ids[:images], ignore_index=IGNORE_INDEX)

    def score(self, batch: Batch, predictions: list[Segmentation]) -> None:
        """Hands the label maps of a batch to the metric."""
        assert batch.label_maps is not None
        self.metric.update(batch.image_ids, [one.label_map for one in predictions], batch.label_maps)

    def schedule(self, optimizer: Optimizer) -> LambdaLR:
        """Warm-up, then a polynomial decay to zero at the trainer's last step."""
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ConfigError("the learning rate decays over the whole training: give the Trainer max_steps=...")
        options = {name: self.hparams[name] for name in ("power", "warmup_steps", "warmup_ratio")}
        return LambdaLR(optimizer, partial(polynomial_factor, steps=int(steps), **options))
