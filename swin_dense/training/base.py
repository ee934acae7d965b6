"""What the Lightning modules of all tasks share: losses in, one step out, tied to its place in the training."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from swin_dense.errors import ConfigError, TrainingError, option
from swin_dense.isolation import seeded
from swin_dense.records import Batch
from swin_dense.training.callbacks import HEADLINES
from swin_dense.training.optim import adamw

ADAMW = ("learning_rate", "weight_decay", "betas", "no_decay", "layer_decay", "backbone_factor")
"""Hyperparameters of a module that are keyword arguments of `adamw`."""

APPLIED = ("lr", "weight_decay", "betas")
"""Options of an optimizer's groups that are the run's settings, not what it has learnt."""


class DenseModule(LightningModule):
    """Glue between a model, its loss terms, its optimizer and its score, for any Lightning trainer.

    Logs every loss term as `train/NAME` and their sum as `train/loss`, each the mean since the last line of the log,
    and every metric as `val/NAME` or `val/KIND_NAME` (`test/...` in `Trainer.test`). The settings of a module are its
    hyperparameters, `hparams`.

    Attributes:
        model: The model.
        metric: Scores its predictions; None until a trainer sets it up with the data.
        scores: Result of the last validation or test.
        trained_epoch: Epoch of the last training batch, counted from 0.
    """

    def __init__(self, model: Any, metric: Any, inference: Any) -> None:
        """Takes the parts, as the tasks' own modules describe them."""
        super().__init__()
        self.model = getattr(model, "module", model)
        if not isinstance(self.model, nn.Module) or not hasattr(self.model, "network"):
            name = type(self).__name__
            raise ConfigError(
                f"{name} takes what swin_dense.load gives, or an nn.Module with what help({name}) names, and no "
                f"{type(model).__name__}: swin_dense.load builds a model from a config"
            )
        self.metric = metric
        self.inference = inference
        self.scores: dict[str, Any] = {}
        self.trained_epoch = 0
        self._sums: dict[str, Tensor] = {}
        self._batches = 0
        self._learning_rate = 0.0
        self._logged_step = 0
        self._broken_batches = 0
        self._rate_is_searched = False
        self._watch: _Watch | None = None

    @property
    def network(self) -> nn.Module:
        """The module whose parameters are the weights, without the glue around it."""
        return cast(nn.Module, self.model.network)

    @abstractmethod
    def make_metric(self, data: Any, images: int | None = None, **options: Any) -> Any:
        """The task's metric for the first `images` validation images of a data module that is set up."""

    @abstractmethod
    def schedule(self, optimizer: Optimizer) -> LambdaLR:
        """The learning-rate schedule of the task."""

    @abstractmethod
    def score(self, batch: Batch, predictions: Any) -> None:
        """Hands predictions to the metric."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Every loss term of a batch by its name."""
        terms: dict[str, Tensor] = cast(Any, self.model).losses(batch)
        return terms

    def setup(self, stage: str) -> None:
        """Makes the metric where there is none, or where the trainer leaves validation images out.

        A model in evaluation mode, as `swin_dense.load` gives it, is set to train: Lightning would keep the mode.
        """
        check_precision(self.trainer)
        if stage == "fit" and not self.model.training:
            self.model.train()
        # In every process: what is compiled cannot be sent to spawned ones.
        if stage == "fit" and self.hparams.get("compile"):
            getattr(self.network, "backbone", self.network).compile(dynamic=True)
        data = getattr(self.trainer, "datamodule", None)
        if data is None or stage == "predict":
            return
        limit = _first_images(self.trainer, stage, data)
        if self.metric is None or limit is not None:
            self.metric = self.make_metric(data, limit)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch, a scalar; what it draws depends on its place in the training alone."""
        self.trained_epoch = self.current_epoch
        with seeded(self.hparams["seed"], self.current_epoch, batch_idx, self.global_rank, device=self.device):
            terms = self.losses(batch)
        total = total_loss(terms)
        self._watch = _Watch(terms, total, batch)
        for name, value in {**terms, "loss": total}.items():
            self._sums[name] = self._sums[name] + value.detach() if name in self._sums else value.detach().clone()
        self._batches += 1
        # The schedule has moved on by the time that the step is logged.
        self._learning_rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        return total

    def on_after_backward(self) -> None:
        """Stops before a step that would spoil the weights; a gradient scaler skips it, several times at most."""
        assert self._watch is not None
        self._broken_batches = 0 if self._watch.is_finite() else self._broken_batches + 1
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if self._broken_batches > (self.hparams["patience"] if scaled else 0):
            if self._rate_is_searched:  # which has gone beyond the rates that can be trained with
                self.trainer.should_stop = True
                return
            raise TrainingError(self._watch.message(self._broken_batches))
        if self.trainer.world_size > 1 and self.trainer.global_step == 0:
            _check_all_learn(self.network)

    @property
    def means(self) -> dict[str, Tensor]:
        """What is logged in a training, each the mean over the batches since the last line of the log."""
        return {f"train/{name}": total / self._batches for name, total in self._sums.items()}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Logs the means, where a line is due."""
        if not self._line_is_due():
            return
        self.log_dict(self.means, batch_size=len(batch))
        self.log("train/learning_rate", self._learning_rate, batch_size=len(batch))
        self._sums, self._batches, self._logged_step = {}, 0, self.trainer.global_step

    def on_validation_epoch_start(self) -> None:
        """Forgets what an interrupted validation may have left."""
        if self.metric is None:
            raise ConfigError("there is nothing to score with: pass `datamodule=` to the trainer, or `metric=` here")
        self.metric.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Predicts a batch and hands it to the metric; returns {"predictions": one per image} for callbacks."""
        predictions = self.inference.predict(self.model, batch)
        self.score(batch, predictions)
        return {"predictions": predictions}

    def predict_step(self, batch: Batch, batch_idx: int) -> Any:
        """What is predicted in each image of a batch, in order."""
        return self.inference.predict(self.model, batch)

    def on_validation_epoch_end(self) -> None:
        """Scores what every rank has predicted and logs the metrics, which are the same on every rank."""
        if self.trainer.sanity_checking:
            return
        self.scores = self.metric.compute()
        stage = "test" if self.trainer.testing else "val"
        for name, value in metrics(self.scores):
            self.log(f"{stage}/{name}", value, prog_bar=name.endswith(HEADLINES), rank_zero_only=False)
        if self.trainer.state.fn == "fit":  # one row with the step that is validated, whenever that is done
            self.log("step", float(max(self.trainer.global_step - 1, 0)), rank_zero_only=False)
            self.log("epoch", float(self.trained_epoch), rank_zero_only=False)

    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self) -> Any:
        """AdamW and the schedule, stepped after every optimizer step."""
        optimizer = adamw(self.model, **{name: self.hparams[name] for name in ADAMW if name in self.hparams})
        self._settings = [{name: group[name] for name in APPLIED} for group in optimizer.param_groups]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"}}

    def on_train_start(self) -> None:
        """Lets the settings hold, where a checkpoint has brought back others."""
        optimizer, schedule = self.trainer.optimizers[0], self.trainer.lr_scheduler_configs[0].scheduler
        self._rate_is_searched = not isinstance(schedule, LambdaLR)  # Lightning has put its own in place
        if not isinstance(schedule, LambdaLR):
            return
        schedule.base_lrs = [settings["lr"] for settings in self._settings]
        rates = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        schedule._last_lr = [base * factor(schedule.last_epoch) for base, factor in rates]
        for group, settings, rate in zip(optimizer.param_groups, self._settings, schedule.get_last_lr(), strict=True):
            group.update(settings, initial_lr=settings["lr"], lr=rate)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what a resumed run needs to log the same, and the classes; a line that is due is written by this run."""
        due, data = self._line_is_due(), getattr(self.trainer, "datamodule", None)
        checkpoint["swin_dense"] = {
            "sums": {} if due else {name: float(value) for name, value in self._sums.items()},
            "batches": 0 if due else self._batches,
            "logged_step": self.trainer.global_step if due else self._logged_step,
            "trained_epoch": self.trained_epoch,
            "class_names": None if data is None else list(data.class_names),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes it back."""
        state = checkpoint.get("swin_dense")
        if state is None:
            return
        self._sums = {name: torch.tensor(value, device=self.device) for name, value in state["sums"].items()}
        self._batches, self._logged_step = state["batches"], state["logged_step"]
        self.trained_epoch = state["trained_epoch"]

    def _line_is_due(self) -> bool:
        step, every = self.trainer.global_step, getattr(self.trainer, "log_every_n_steps", 1)
        return self._batches > 0 and step > self._logged_step and (step % every == 0 or self.trainer.should_stop)


class _Watch:
    """Whether the loss of a batch is finite, asked without waiting for the device until the gradients are under way."""

    def __init__(self, terms: Mapping[str, Tensor], total: Tensor, batch: Batch) -> None:
        self.terms = {name: value.detach() for name, value in terms.items()}
        self.batch = batch
        self.finite = torch.isfinite(total.detach()).to("cpu", non_blocking=total.is_cuda)
        self.copied = torch.cuda.current_stream(total.device).record_event() if total.is_cuda else None

    def is_finite(self) -> bool:
        if self.copied is not None:
            self.copied.synchronize()
        return bool(self.finite)

    def message(self, batches: int) -> str:
        values = {name: value.item() for name, value in self.terms.items()}
        broken = ", ".join(f"{name}={value:g}" for name, value in values.items() if not math.isfinite(value))
        names = zip(self.batch.image_ids, self.batch.file_names, strict=True)
        row = f", after {batches - 1} others in a row," if batches > 1 else ""
        return (
            f"the loss is not finite ({broken}){row} in the batch of images "
            f"{', '.join(f'{i} ({name})' for i, name in names)}; look at their annotations with "
            "swin-dense check-data, lower optimizer.learning_rate, or set training.clip_gradient_norm"
        )


def metrics(scores: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The metrics over the whole data set, such as ("mIoU", 44.5) or ("bbox_AP", 0.41); not those of single classes."""
    for name, value in scores.items():
        if name == "per_class":
            continue
        if isinstance(value, Mapping):
            yield from ((f"{name}_{metric}", one) for metric, one in value.items() if metric != "per_class")
        else:
            yield name, value


def configured_inference(model: Any) -> Any:
    """How a model of `swin_dense.load` is run on images, by its config; None for a plain module."""
    return None if isinstance(model, nn.Module) else getattr(model, "inference", None)


def check_precision(trainer: Trainer) -> None:
    """Refuses what converts batches: records cannot be, and boxes and losses are computed in float32."""
    plugin = trainer.precision_plugin
    if type(plugin).convert_input is not Precision.convert_input:
        raise ConfigError(
            f'precision "{trainer.precision}", {type(trainer.strategy).__name__}: Lightning would convert boxes and '
            "labels, too; take precision bf16-mixed, 16-mixed or 32-true, and strategy ddp for several devices"
        )


def total_loss(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of the terms that are to be minimised: those with "loss" in their name."""
    return torch.stack([value for name, value in terms.items() if "loss" in name]).sum()


def _first_images(trainer: Trainer, stage: str, data: Any) -> int | None:
    """How many validation images the trainer shows, of all ranks together, the first ones; None for all."""
    limit = trainer.limit_test_batches if stage == "test" else trainer.limit_val_batches
    images = trainer.world_size * data.eval_batch_size
    batches = -(-len(data.val_image_ids) // images)
    shown = limit if isinstance(limit, int) else int(limit * batches)
    return shown * images if 0 < shown < batches else None


def _check_all_learn(network: nn.Module) -> None:
    """Refuses parameters without a gradient where several processes wait for it; alone, they just stay as they are."""
    idle = [
        name.rpartition(".")[0] for name, one in network.named_parameters() if one.requires_grad and one.grad is None
    ]
    if idle := list(dict.fromkeys(idle)):
        more = f" and {len(idle) - 4} more" if len(idle) > 4 else ""
        raise ConfigError(
            f"model: nothing is learnt by {', '.join(idle[:4])}{more}, which several processes cannot train "
            "together: no head reads what comes of them. Leave such maps of the backbone out with "
            "model.backbone.out_indices (the heads' in_index counts those that are left), or train with "
            f"{option('devices', 1)}"
        )
