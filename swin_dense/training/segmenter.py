"""The Lightning module that trains any semantic segmenter and scores its mean IoU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from swin_dense.inference.segmentation import SegmentationInference, Segmenter
from swin_dense.records import Batch, Segmentation
from swin_dense.training.base import DenseModule, Metric, Model
from swin_dense.training.optim import NO_DECAY, warmup_polynomial


class TrainableSegmenter(Model, Segmenter, Protocol):
    """A model that learns and emits logits."""


class SegmentationMetric(Metric, Protocol):
    """Scores label maps against annotated ones."""

    def update(self, image_ids: Sequence[int], predicted: Sequence[Tensor], truth: Sequence[Tensor]) -> None:
        """Takes the label maps of some images."""


class SegmenterModule(DenseModule):
    """Trains a segmenter; logs every figure of the metric as `val/FIGURE`, for instance `val/mIoU`."""

    def __init__(
        self,
        segmenter: TrainableSegmenter,
        metric: SegmentationMetric,
        inference: SegmentationInference,
        *,
        learning_rate: float = 6e-5,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        no_decay: Sequence[str] = NO_DECAY,
        layer_decay: float | None = None,
        steps: int = 160_000,
        power: float = 1.0,
        warmup_steps: int = 1500,
        warmup_ratio: float = 1e-6,
        seed: int = 0,
    ) -> None:
        """Takes the parts; the defaults are the official ADE20K recipe.

        Args:
            segmenter: The model, an `nn.Module` with `losses` and `logits`.
            metric: Scores its label maps.
            inference: Makes label maps of its logits.
            learning_rate: AdamW's.
            weight_decay: Of parameters whose name holds none of `no_decay`.
            betas: AdamW's.
            no_decay: Parts of parameter names.
            layer_decay: Factor on the learning rate from one layer of the backbone to the layer before it.
            steps: Length of the training, which the trainer must share.
            power: Of the decay to zero; 1 is a straight line.
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
        super().__init__(segmenter, metric, optimizer, seed)
        self.inference = inference
        self.schedule_options: dict[str, Any] = {
            "steps": steps,
            "power": power,
            "warmup_steps": warmup_steps,
            "warmup_ratio": warmup_ratio,
        }

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, list[Segmentation]]:
        """Segments a batch and hands it to the metric.

        Args:
            batch: Images with the label maps of the images on disk.
            batch_idx: Position in the validation set.

        Returns:
            {"predictions": one per image}, for callbacks that draw them.
        """
        assert batch.label_maps is not None
        segmentations = self.inference.predict(cast(Segmenter, self.model), batch)
        cast(SegmentationMetric, self.metric).update(
            batch.image_ids, [one.label_map for one in segmentations], batch.label_maps
        )
        return {"predictions": segmentations}

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Warm-up, then a polynomial decay to zero."""
        return warmup_polynomial(optimizer, **self.schedule_options)
