"""Settings of every task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from swin_dense.errors import ConfigError, check_lowest, check_positive, nearest, option

MATMUL_PRECISIONS = ("highest", "high", "medium")
"""Those of `torch.set_float32_matmul_precision`."""


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
    no_decay: tuple[str, ...] = ("absolute_pos_embed", "relative_position_bias_table", "logit_scale", "cpb_mlp", "norm")
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
        precision: "32", "bf16" or "16" (mixed precision, the weights stay in float32), or "auto", which is "16" on CUDA
            and "32" elsewhere.
        matmul_precision: Of float32 products: "highest", "high" (TF32 where the device has it) or "medium".
        compile: Whether the backbone is compiled (`torch.compile`), once for images of all sizes.
        accumulate: Batches whose gradients are added up before an optimizer step.
        images_per_step: Images of an optimizer step, on all devices together; `accumulate` follows from it. None
            leaves it to `accumulate`.
        nonfinite_patience: Batches in a row whose loss may be not finite in float16; the gradient scaler skips them.
        clip_gradient_norm: Greatest norm of the gradient; None does not clip.
        ema_decay: Decay of the exponential moving average of the weights; None keeps none.
        seed: Of everything random.
        validate_every: Epochs from one validation to the next; where the schedule counts steps, optimizer steps. None
            validates after every epoch, or after every tenth of the steps.
        checkpoint_every: Optimizer steps from one `last.ckpt` to the next, besides the end of every epoch.
        save_top_k: How many of the best checkpoints are kept; more than one, or all (-1), are `top-step=N.ckpt`.
        log_every: Optimizer steps from one line of `metrics.csv`, of means, to the next.
        pictures: Validation images that are drawn with their predictions.
    """

    precision: str = "32"
    matmul_precision: str = "high"
    compile: bool = False
    accumulate: int = 1
    images_per_step: int | None = None
    nonfinite_patience: int = 10
    clip_gradient_norm: float | None = None
    ema_decay: float | None = None
    seed: int = 0
    validate_every: int | None = None
    checkpoint_every: int = 1000
    save_top_k: int = 1
    log_every: int = 50
    pictures: int = 8

    def __post_init__(self) -> None:
        """Checks the numbers."""
        check_lowest("training", self, accumulate=1, validate_every=1, checkpoint_every=1, log_every=1)
        check_lowest("training", self, seed=0, pictures=0, images_per_step=1, nonfinite_patience=0)
        if self.matmul_precision not in MATMUL_PRECISIONS:
            raise ConfigError(
                f'training.matmul_precision: no "{self.matmul_precision}"; '
                f"{nearest(self.matmul_precision, MATMUL_PRECISIONS)}"
            )
        if self.save_top_k != -1 and self.save_top_k < 1:
            raise ConfigError(f"training.save_top_k must be at least 1, or -1 for all, got {self.save_top_k}")
        if self.images_per_step is not None and self.accumulate != 1:
            raise ConfigError("training.images_per_step and training.accumulate say the same; leave one out")
        check_positive("training", self, "clip_gradient_norm")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ConfigError(f"training.ema_decay must be from 0 to below 1, got {self.ema_decay}")


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What a whole config of any task has.

    Attributes:
        model: Settings of the model.
        optimizer: AdamW.
        training: How the training runs.
        trainer: Arguments of Lightning's Trainer, such as dict(accelerator="gpu", devices=2).
        loggers: "csv", "tensorboard", "wandb", "mlflow", "comet", "neptune" or class paths, or dict(type=..., ...).
        callbacks: Lightning's, such as "LearningRateMonitor", class paths, or dict(type=..., ...).
    """

    model: dict[str, Any]
    optimizer: OptimizerConfig
    training: TrainingConfig = TrainingConfig()
    trainer: dict[str, object] = field(default_factory=dict)
    loggers: tuple[object, ...] = ("csv", "tensorboard")
    callbacks: tuple[object, ...] = ()

    @property
    def annotation_file(self) -> Path | None:
        """The one file that says what is on the training images, where there is such a file."""
        return None


TaskConfigT = TypeVar("TaskConfigT", bound=TaskConfig)


def stopping_early(config: TaskConfigT, patience: int | None) -> TaskConfigT:
    """The config whose training ends after so many validations without a better score; None leaves it as it is."""
    if patience is None:
        return config
    if type(patience) is not int or patience < 1:
        raise ConfigError(f"{option('early_stopping', patience)}: it must be a number of validations, at least 1")
    named = [one if isinstance(one, Mapping) else {"type": one} for one in config.callbacks]
    stops = [str(one.get("type")).endswith("EarlyStopping") for one in named]
    pairs = zip(config.callbacks, named, stops, strict=True)
    kept = [{**options, "patience": patience} if stop else one for one, options, stop in pairs]
    added = [] if any(stops) else [{"type": "EarlyStopping", "patience": patience}]
    return replace(config, callbacks=(*kept, *added))
