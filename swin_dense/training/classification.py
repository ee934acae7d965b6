"""The Lightning modules that train classifiers of images and of videos by the official recipes, and score them."""

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
from swin_dense.inference.classification import ClassificationInference, VideoInference
from swin_dense.metrics import Accuracy
from swin_dense.records import Batch, Classification
from swin_dense.training.base import DenseModule, configured_inference
from swin_dense.training.optim import NO_DECAY, cosine_factor, steps_per_epoch


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
