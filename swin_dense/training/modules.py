"""The Lightning modules that train any detector, segmenter or classifier, of images or of videos, and score it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchvision.transforms import v2

from swin_dense.errors import ConfigError
from swin_dense.inference import EvaluationSize
from swin_dense.inference.classification import ClassificationInference, VideoInference
from swin_dense.inference.detection import DetectionInference
from swin_dense.inference.segmentation import SegmentationInference
from swin_dense.metrics import Accuracy, CocoMetric, MeanIoU
from swin_dense.records import IGNORE_INDEX, Batch, Classification, Detections, Segmentation
from swin_dense.training.base import DenseModule, configured_inference
from swin_dense.training.optim import NO_DECAY, cosine_factor, polynomial_factor, steps_per_epoch, warmup_multistep


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
                If it has `begin_step(epoch, step)`, that is called before `losses`; what `training_state()` gives is
                kept in checkpoints for `load_training_state`.
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

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Every loss term of a batch by its name, at this place in the training."""
        if hasattr(self.model, "begin_step"):
            self.model.begin_step(self.current_epoch, self.global_step)
        return super().losses(batch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the model changes beside its tensors."""
        super().on_save_checkpoint(checkpoint)
        if hasattr(self.model, "training_state"):
            checkpoint["swin_dense"]["model"] = self.model.training_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes it back."""
        super().on_load_checkpoint(checkpoint)
        if state := checkpoint.get("swin_dense", {}).get("model"):
            self.model.load_training_state(state)

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


@dataclass(frozen=True)
class Mixing:
    """What is done to the images of a normalised batch, and to their labels, before a classifier learns from them.

    Attributes:
        mixup: Alpha of Mixup (arXiv 1710.09412); 0 does without.
        cutmix: Alpha of CutMix (arXiv 1905.04899); 0 does without.
        probability: How often a batch is mixed.
        switch_probability: How often CutMix is taken where both are there.
        erase_probability: How often a rectangle of an image is replaced by noise (arXiv 1708.04896).
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch_probability: float = 0.5
    erase_probability: float = 0.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        shares = (self.probability, self.switch_probability, self.erase_probability)
        if min(self.mixup, self.cutmix) < 0 or not all(0 <= share <= 1 for share in shares):
            raise ConfigError("mixing: alphas must be at least 0 and probabilities in 0..1")

    def __call__(self, images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Draws what is done to images (B, 3, H, W) with labels (B,); the result has labels (B, K)."""
        if self.erase_probability > 0:
            from timm.data import random_erasing

            make: Any = random_erasing.RandomErasing  # without types
            erase = make(self.erase_probability, mode="pixel", device=str(images.device))
            images = erase(images.clone())  # it works in place
        targets = functional.one_hot(labels, num_classes).float()
        mixed = self.mixup > 0 or self.cutmix > 0
        if not mixed or float(torch.rand(())) >= self.probability:
            return images, targets
        with_cutmix = self.mixup == 0 or (self.cutmix > 0 and float(torch.rand(())) < self.switch_probability)
        mix = v2.CutMix if with_cutmix else v2.MixUp
        alpha = self.cutmix if with_cutmix else self.mixup
        images, targets = mix(alpha=alpha, num_classes=num_classes)(images, labels)
        return images, targets


class ClassifierModule(DenseModule):
    """Trains a classifier with any Lightning trainer; logs metrics as `val/METRIC`, for instance `val/top1`.

    The length of the training is the trainer's: `Trainer(max_epochs=300).fit(ClassifierModule(model),
    datamodule=data)`. Images come from the data module at the size at which they are trained on and scored.

    Example:
        >>> import torch
        >>> from swin_dense.training import ClassifierModule
        >>> class Model(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = torch.nn.Linear(1, 1)  # any classifier; swin_dense.load(...) gives one
        >>> module = ClassifierModule(Model(), label_smoothing=0.0)
        >>> module.hparams.learning_rate, module.hparams.label_smoothing
        (0.001, 0.0)
    """

    def __init__(
        self,
        model: Any,
        metric: Any = None,
        inference: Any = None,
        *,
        mixing: Mixing = Mixing(mixup=0.8, cutmix=1.0, erase_probability=0.25),
        label_smoothing: float = 0.1,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.999),
        no_decay: Sequence[str] = (*NO_DECAY, "bias"),
        layer_decay: float | None = None,
        backbone_factor: float = 1.0,
        warmup_epochs: float = 20.0,
        warmup_ratio: float = 1e-3,
        min_ratio: float = 1e-2,
        seed: int = 0,
        patience: int = 10,
    ) -> None:
        """Takes the parts; the defaults are the official recipe for 1024 images a step.

        Args:
            model: What `swin_dense.load` gives, or an `nn.Module` with `network`, `normalised` and `logits`.
            metric: Scores its predictions; None makes an `Accuracy` of the trainer's data module.
            inference: A `ClassificationInference`, how the classifier is run on images; its `view` is the data module's
                business here.
            mixing: What is done to training batches.
            label_smoothing: Part of the target that all classes share.
            learning_rate: AdamW's.
            weight_decay: Of parameters whose name holds none of `no_decay`.
            betas: AdamW's.
            no_decay: Parts of parameter names.
            layer_decay: Factor on the learning rate from one layer of the backbone to the layer before it.
            backbone_factor: Factor on the learning rate of the whole backbone.
            warmup_epochs: Length of the linear warm-up, after which half a cosine follows.
            warmup_ratio: First factor of the warm-up.
            min_ratio: Last factor.
            seed: Of the randomness inside a training step.
            patience: Batches in a row whose loss may be not finite in float16, where the gradient scaler skips them.
        """
        inference = inference or configured_inference(model) or ClassificationInference()
        if isinstance(inference, ClassificationInference):
            inference = replace(inference, view=None)
        super().__init__(model, metric, inference)
        self.save_hyperparameters(ignore=["model", "metric", "inference", "mixing"])
        self.mixing = mixing

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The cross entropy of a batch with soft labels, which mixing and smoothing make."""
        assert batch.labels is not None, "a classifier learns from labels"
        model: Any = self.model
        labels = torch.tensor(batch.labels, device=batch.images.device)
        images, targets = self.mixing(model.normalised(batch.images), labels, model.network.num_classes)
        logits = model.network(images).float()
        return {"loss_ce": functional.cross_entropy(logits, targets, label_smoothing=self.hparams["label_smoothing"])}

    def make_metric(self, data: Any, images: int | None = None, **options: Any) -> Accuracy:
        """Accuracy on the first `images` validation images of an `ImageNetDataModule` that is set up; None for all."""
        return Accuracy(data.class_names, data.val_image_ids[:images])

    def score(self, batch: Batch, predictions: list[Classification]) -> None:
        """Hands the probabilities of a batch to the metric."""
        assert batch.labels is not None
        probabilities = torch.stack([one.probabilities for one in predictions])
        self.metric.update(batch.image_ids, probabilities, batch.labels, batch.file_names)

    def schedule(self, optimizer: Optimizer) -> LambdaLR:
        """Warm-up, then half a cosine to the trainer's last step."""
        length = self.trainer.estimated_stepping_batches
        if math.isinf(length):
            raise ConfigError("the learning rate decays over the whole training: give the Trainer max_epochs=...")
        steps = int(length)
        warmup = min(round(self.hparams["warmup_epochs"] * steps_per_epoch(self.trainer)), steps - 1)
        options = {name: self.hparams[name] for name in ("warmup_ratio", "min_ratio")}
        return LambdaLR(optimizer, partial(cosine_factor, steps=steps, warmup_steps=warmup, **options))


class VideoClassifierModule(ClassifierModule):
    """Trains a classifier of videos with any Lightning trainer; logs metrics as `val/METRIC`, for instance `val/top1`.

    The length of the training is the trainer's: `Trainer(max_epochs=30).fit(VideoClassifierModule(model),
    datamodule=data)`. Training clips come from the data module at the size at which they are trained on; validation
    videos come whole, and `inference` says which views of them are looked at.

    Example:
        >>> import swin_dense, warnings
        >>> from swin_dense.training import VideoClassifierModule
        >>> warnings.simplefilter("ignore")  # no weights are given: they are random
        >>> model = swin_dense.load("swin3d-t_32x2_k400", device="cpu")
        >>> module = VideoClassifierModule(model)
        >>> module.hparams.learning_rate, module.hparams.backbone_factor, module.inference.views.clips
        (0.001, 0.1, 4)
    """

    def __init__(
        self,
        model: Any,
        metric: Any = None,
        inference: VideoInference | None = None,
        *,
        label_smoothing: float = 0.0,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.999),
        no_decay: Sequence[str] = NO_DECAY,
        layer_decay: float | None = None,
        backbone_factor: float = 0.1,
        warmup_epochs: float = 2.5,
        warmup_ratio: float = 0.1,
        min_ratio: float = 0.0,
        seed: int = 0,
        patience: int = 10,
    ) -> None:
        """Takes the parts; the defaults are the official recipe of Swin-T on Kinetics, for 256 clips a step.

        Args:
            model: What `swin_dense.load` gives, or an `nn.Module` with `network`, `normalised` and `logits`.
            metric: Scores its predictions; None makes an `Accuracy` of the trainer's data module.
            inference: How the classifier is run on videos; its clips and views are those of the data module, which
                reads them.
            label_smoothing: Part of the target that all classes share.
            learning_rate: AdamW's.
            weight_decay: Of parameters whose name holds none of `no_decay`.
            betas: AdamW's.
            no_decay: Parts of parameter names.
            layer_decay: Factor on the learning rate from one layer of the backbone to the layer before it.
            backbone_factor: Factor on the learning rate of the whole backbone.
            warmup_epochs: Length of the linear warm-up, after which half a cosine follows.
            warmup_ratio: First factor of the warm-up.
            min_ratio: Last factor.
            seed: Of the randomness inside a training step.
            patience: Batches in a row whose loss may be not finite in float16, where the gradient scaler skips them.
        """
        super().__init__(
            model,
            metric,
            inference or configured_inference(model) or VideoInference(),
            mixing=Mixing(),
            label_smoothing=label_smoothing,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            betas=betas,
            no_decay=no_decay,
            layer_decay=layer_decay,
            backbone_factor=backbone_factor,
            warmup_epochs=warmup_epochs,
            warmup_ratio=warmup_ratio,
            min_ratio=min_ratio,
            seed=seed,
            patience=patience,
        )

    def setup(self, stage: str) -> None:
        """Looks at videos as the data module reads them: a batch holds the clips of its views, and no whole file."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if hasattr(data, "views"):
            self.inference = replace(self.inference, sampling=data.sampling, views=data.views, timeline=False)
        super().setup(stage)
