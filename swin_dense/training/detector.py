"""The Lightning module that trains any detector and scores it on COCO-format data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from swin_dense.data.samples import Batch, Detections
from swin_dense.training.base import Detector, Metric, seed_step, total_loss
from swin_dense.training.optim import adamw, warmup_multistep


class DetectorModule(LightningModule):
    """Glue between a detector, its loss terms, its optimizer and its score.

    Logs every loss term as `train/NAME`, their sum as `train/loss`, and every figure of the metric as
    `val/KIND_FIGURE`, for instance `val/bbox_AP`.

    Attributes:
        detector: The model.
        scores: Result of the last validation: {"bbox": {"AP": ..., "per_class": {...}}, ...}.
    """

    def __init__(
        self,
        detector: Detector,
        metric: Metric,
        *,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.999),
        no_decay: Sequence[str] = ("absolute_pos_embed", "relative_position_bias_table", "norm"),
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
            learning_rate: AdamW's.
            weight_decay: Of parameters whose name holds none of `no_decay`.
            betas: AdamW's.
            no_decay: Parts of parameter names.
            epochs: Length of the training, which the trainer must share.
            milestones: Epochs after which the learning rate goes down.
            gamma: By this factor.
            warmup_steps: Optimizer steps of the linear warm-up.
            warmup_ratio: Its first factor.
            seed: Of the randomness inside a training step.
        """
        super().__init__()
        self.detector = cast(nn.Module, detector)
        self.metric = metric
        self.optimizer_options: dict[str, Any] = {
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "betas": betas,
            "no_decay": no_decay,
        }
        self.schedule_options: dict[str, Any] = {
            "milestones": milestones,
            "gamma": gamma,
            "warmup_steps": warmup_steps,
            "warmup_ratio": warmup_ratio,
        }
        self.epochs = epochs
        self.seed = seed
        self.scores: dict[str, dict[str, Any]] = {}

    @property
    def network(self) -> nn.Module:
        """The module whose parameters are the weights, without the glue around it."""
        return cast(Detector, self.detector).network

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Ties dropout, drop path and the heads' sampling to the place of the step in the training."""
        seed_step(self.seed, self.current_epoch, batch_idx, self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch.

        Args:
            batch: Images with their instances.
            batch_idx: Position in the epoch.

        Returns:
            Scalar.

        Raises:
            TrainingError: It is not finite.
        """
        terms = cast(Detector, self.detector).losses(batch)
        total = total_loss(terms, batch)
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(batch))
        self.log_dict(
            {f"train/{name}": value.detach() for name, value in terms.items() if name != "loss"}, batch_size=len(batch)
        )
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=len(batch))
        return total

    def on_validation_epoch_start(self) -> None:
        """Forgets what an interrupted validation may have left."""
        self.metric.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, list[Detections]]:
        """Predicts a batch and hands it to the metric.

        Args:
            batch: Images.
            batch_idx: Position in the validation set.

        Returns:
            {"detections": one per image}, for callbacks that draw them.
        """
        detections = cast(Detector, self.detector).predict(batch)
        self.metric.update(batch.image_ids, detections)
        return {"detections": detections}

    def on_validation_epoch_end(self) -> None:
        """Scores what every rank has predicted and logs the figures, which are the same on every rank."""
        if self.trainer.sanity_checking:
            return
        self.scores = self.metric.compute()
        for kind, figures in self.scores.items():
            for name, value in figures.items():
                if not isinstance(value, Mapping):
                    self.log(f"val/{kind}_{name}", value, prog_bar=name == "AP", rank_zero_only=False)

    def configure_optimizers(self) -> Any:
        """AdamW and the warm-up, multi-step schedule, stepped after every optimizer step."""
        optimizer = adamw(self.detector, **self.optimizer_options)
        steps_per_epoch = int(self.trainer.estimated_stepping_batches) // self.epochs
        scheduler = warmup_multistep(optimizer, steps_per_epoch=max(steps_per_epoch, 1), **self.schedule_options)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
