"""Settings of every task."""

from __future__ import annotations

from dataclasses import dataclass

from swin_dense.errors import ConfigError, check_lowest, check_positive


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW.

    Attributes:
        learning_rate: For the total batch of the recipe; not scaled by the number of devices.
        weight_decay: Of every parameter whose name contains none of `no_decay`.
        betas: Momentum coefficients.
        no_decay: Parts of parameter names that are not decayed.
        layer_decay: Factor on the learning rate from one layer of the backbone to the layer before it, above 0 and at
            most 1; heads, neck and output norms keep the full learning rate. None gives every layer the same.
    """

    learning_rate: float
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    no_decay: tuple[str, ...] = ("absolute_pos_embed", "relative_position_bias_table", "norm")
    layer_decay: float | None = None

    def __post_init__(self) -> None:
        """Checks the numbers; `layer_decay` is the optimizer's business."""
        check_positive("optimizer", self, "learning_rate")
        check_lowest("optimizer", self, weight_decay=0)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optimizer.betas must be from 0 to below 1, got {self.betas}")


@dataclass(frozen=True)
class TrainingConfig:
    """How the training runs.

    Attributes:
        precision: "32", "bf16" or "16" (mixed precision, the weights stay in float32).
        accumulate: Batches whose gradients are added up before an optimizer step.
        clip_gradient_norm: Greatest norm of the gradient; None does not clip.
        ema_decay: Decay of the exponential moving average of the weights; None keeps none.
        seed: Of everything random.
        validate_every: Epochs from one validation to the next; where the schedule counts steps, optimizer steps. None
            validates after every epoch, or after every tenth of the steps.
        checkpoint_every: Optimizer steps from one `last.ckpt` to the next, besides the end of every epoch.
        log_every: Batches from one line of `metrics.csv` to the next.
        pictures: Validation images that are drawn with their predictions.
    """

    precision: str = "32"
    accumulate: int = 1
    clip_gradient_norm: float | None = None
    ema_decay: float | None = None
    seed: int = 0
    validate_every: int | None = None
    checkpoint_every: int = 1000
    log_every: int = 50
    pictures: int = 8

    def __post_init__(self) -> None:
        """Checks the numbers."""
        check_lowest("training", self, accumulate=1, validate_every=1, checkpoint_every=1, log_every=1)
        check_lowest("training", self, seed=0, pictures=0)
        check_positive("training", self, "clip_gradient_norm")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ConfigError(f"training.ema_decay must be from 0 to below 1, got {self.ema_decay}")
