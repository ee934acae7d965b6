"""What a config says to Lightning's trainer, in its own words, and what is refused."""

from __future__ import annotations

import logging
import random
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from swin_dense.config import TrainingConfig, load_config
from swin_dense.errors import ConfigError
from swin_dense.training.plugins import EventsLogger, MetricsTable
from swin_dense.training.trainer import (
    accumulation,
    check_trainer_options,
    check_validation,
    describe,
    evaluation_trainer,
    surroundings,
    training_trainer,
)

DETECTION, SEGMENTATION = "mask-rcnn_swin-nano_shapes", "upernet_swin-nano_shapes"
CPU = {"trainer.accelerator": "cpu", "trainer.devices": 1}


def trainer_of(run: Path, config: str = DETECTION, **changes: Any) -> Trainer:
    overrides = {**CPU, **{key.replace("__", "."): value for key, value in changes.items()}}
    return training_trainer(load_config(config, overrides), run, lambda *_: None)


def test_lightning_gets_what_the_config_says(tmp_path: Path) -> None:
    options = {"trainer": {"limit_train_batches": 3, "deterministic": True, "accelerator": "cpu", "devices": 2}}
    trainer = training_trainer(load_config(DETECTION, options), tmp_path, lambda *_: None)
    assert (trainer.limit_train_batches, trainer.world_size) == (3, 2)
    assert torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("logger", r"trainer\.logger is decided by the run: name loggers with loggers=\[\.\.\.\]"),
        ("max_epochs", "schedule.epochs"),
        ("accumulate_grad_batches", "training.images_per_step"),
        ("limit_train_batch", 'takes no "limit_train_batch"; did you mean "limit_train_batches"'),
    ],
)
def test_what_the_run_decides_and_what_lightning_does_not_know_is_refused(option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_trainer_options({option: 1})


@pytest.mark.parametrize("changes", [{"trainer__devices": 0}, {"trainer__accelerator": "abacus"}], ids=str)
def test_devices_that_cannot_be_had_are_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="^trainer: [^\n]+$"):
        trainer_of(tmp_path, **changes)
    with pytest.raises(ConfigError, match="^trainer: "):
        evaluation_trainer(0, device="cpu")


def test_a_recipe_takes_the_precision_of_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trainer_of(tmp_path, training__precision="auto").precision == "32-true"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # the run is on the CPU all the same
    assert trainer_of(tmp_path, training__precision="auto").precision == "32-true"
    assert trainer_of(tmp_path, training__precision="auto", trainer__precision="bf16-mixed").precision == "bf16-mixed"


@pytest.mark.parametrize(("batch_size", "processes", "expected"), [(2, 1, 8), (2, 8, 1), (4, 2, 2), (16, 1, 1)])
def test_the_images_of_a_step_are_the_same_on_any_devices(batch_size: int, processes: int, expected: int) -> None:
    assert accumulation(TrainingConfig(images_per_step=16), batch_size, processes) == expected


@pytest.mark.parametrize(
    ("batch_size", "processes", "message"),
    [
        (3, 1, r"images_per_step=16 is no multiple of data.batch_size=3; data.batch_size may be 2 or 4"),
        (3, 2, r"batch_size=3 on each of 2 devices; data.batch_size may be 2 or 4"),
        (32, 1, r"data.batch_size may be 8 or 16"),
        (1, 3, r"no batch size makes it one: set it to a multiple of 3"),
    ],
)
def test_batches_that_do_not_make_a_step_are_refused_with_those_that_do(
    batch_size: int, processes: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        accumulation(TrainingConfig(images_per_step=16), batch_size, processes)


def test_steps_count_the_same_whatever_is_accumulated(tmp_path: Path) -> None:
    changes = {"training__images_per_step": 32, "training__validate_every": 7, "data__batch_size": 8}
    trainer = trainer_of(tmp_path, SEGMENTATION, **changes)
    assert (trainer.accumulate_grad_batches, trainer.val_check_interval) == (4, 28)
    assert "32 images a step" in describe(trainer, load_config(SEGMENTATION, {"data.batch_size": 8}))


@pytest.mark.parametrize(("epochs", "late"), [(3, []), (2, []), (1, [2])])
def test_milestones_that_a_shorter_training_never_reaches_are_named(
    tmp_path: Path, epochs: int, late: list[int]
) -> None:
    config = load_config(DETECTION, {"schedule.epochs": epochs, "schedule.milestones": [1, 2]})
    said = describe(trainer_of(tmp_path), config).splitlines()[1:]
    assert said == [
        f"schedule.milestones: {late} lie behind the last of {epochs} epochs: no step down of the learning rate there"
    ] * bool(late)


@pytest.mark.parametrize(("raised", "expected"), [(KeyboardInterrupt, KeyboardInterrupt), (ValueError, SystemExit)])
def test_ctrl_c_stays_one_although_lightning_exits(raised: type[BaseException], expected: type[BaseException]) -> None:
    with pytest.raises(expected), surroundings():
        try:
            raise raised
        except raised:
            sys.exit(1)


def test_a_notebook_computes_on_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def several(**options: Any) -> Trainer:
        """As where the devices of the machine are two."""
        return Trainer(**{**options, "devices": 2 if (wanted := options.get("devices", "auto")) == "auto" else wanted})

    monkeypatch.setattr("swin_dense.training.trainer.Trainer", several)
    assert evaluation_trainer(device="cpu").world_size == 2
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert evaluation_trainer(device="cpu").world_size == 1
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.accelerator_connector._IS_INTERACTIVE", True)
    with pytest.raises(ConfigError, match=r"in 2 forked or spawned processes. A notebook, .* on one device; use sev"):
        evaluation_trainer(2, device="cpu")


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_processes_that_keep_their_scores_are_refused(tmp_path: Path, strategy: str) -> None:
    with pytest.raises(ConfigError, match="strategy is ddp unless you set it"):
        trainer_of(tmp_path, trainer__devices=2, trainer__strategy=strategy)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_a_precision_that_converts_batches_is_refused_with_one_that_does_not(tmp_path: Path, precision: str) -> None:
    with pytest.raises(ConfigError, match=f'precision "{precision}", SingleDeviceStrategy: .* take .* bf16-mixed'):
        trainer_of(tmp_path, trainer__precision=precision)


def test_loggers_are_named(tmp_path: Path) -> None:
    assert [type(one) for one in trainer_of(tmp_path).loggers] == [MetricsTable, EventsLogger]
    path = "lightning.pytorch.loggers.CSVLogger"
    mine = {"type": path, "save_dir": str(tmp_path), "name": "mine"}
    assert [type(one) for one in trainer_of(tmp_path, loggers=["csv", mine]).loggers] == [MetricsTable, CSVLogger]
    own = CSVLogger(tmp_path)
    assert trainer_of(tmp_path, loggers=[own]).loggers == [own]
    with pytest.raises(ConfigError, match='there is no "tensorbord"; did you mean "tensorboard"'):
        trainer_of(tmp_path, loggers=["tensorbord"])
    with pytest.raises(ConfigError, match="cannot be imported"):
        trainer_of(tmp_path, loggers=["no_such_package.Logger"])


def test_tensorboard_leaves_its_events_alone(tmp_path: Path) -> None:
    _, events = trainer_of(tmp_path).loggers
    assert isinstance(events, TensorBoardLogger)
    events.log_metrics({"loss": 1.0}, step=1)
    events.finalize("success")
    (file,) = Path(events.log_dir).iterdir()
    assert file.name.startswith("events.out.tfevents") and file.stat().st_size > 80


def test_callbacks_are_named(tmp_path: Path) -> None:
    class Mine(Callback):
        """A user's own."""

    own = Mine()
    wanted = ["LearningRateMonitor", {"type": "EarlyStopping", "patience": 5}, own]
    callbacks = trainer_of(tmp_path, callbacks=wanted).callbacks
    assert own in callbacks and any(isinstance(one, LearningRateMonitor) for one in callbacks)
    (early,) = (one for one in callbacks if isinstance(one, EarlyStopping))
    assert (early.monitor, early.mode, early.patience) == ("val/bbox_AP", "max", 5)
    early.load_state_dict({**EarlyStopping("val/bbox_AP", patience=2).state_dict(), "wait_count": 1})
    assert (early.patience, early.wait_count) == (5, 1)  # the run may have been resumed with another patience
    assert early.state_key == EarlyStopping("val/bbox_AP", mode="max").state_key
    with pytest.raises(ConfigError, match='no "EarlyStoping"; did you mean "EarlyStopping"'):
        trainer_of(tmp_path, callbacks=["EarlyStoping"])
    with pytest.raises(ConfigError, match="refuses its arguments"):
        trainer_of(tmp_path, callbacks=[{"type": "EarlyStopping", "patients": 5}])


def test_nothing_of_the_caller_is_changed() -> None:
    torch.manual_seed(0)
    logger, filters = logging.getLogger("lightning.pytorch"), list(warnings.filters)
    before = (logger.level, torch.get_float32_matmul_precision(), torch.get_rng_state().tolist(), random.getstate())
    generator = np.random.get_state()[1].tolist()
    with surroundings("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
        torch.manual_seed(5), np.random.seed(5), random.seed(5)
        warnings.warn("The number of training batches is small", stacklevel=1)
    after = (logger.level, torch.get_float32_matmul_precision(), torch.get_rng_state().tolist(), random.getstate())
    assert after == before and warnings.filters == filters and np.random.get_state()[1].tolist() == generator


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match='no "hihg"; did you mean "high'):
        TrainingConfig(matmul_precision="hihg")
    with pytest.raises(ConfigError, match="say the same"):
        TrainingConfig(images_per_step=16, accumulate=2)
    with pytest.raises(ConfigError, match="save_top_k must be at least 1, or -1"):
        replace(TrainingConfig(), save_top_k=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"callbacks": [5]}, "callbacks: 5 is neither the name of a Callback nor one"),
        ({"callbacks": ["lightning.pytorch.loggers.CSVLogger"]}, 'callbacks: ".*CSVLogger" is no Callback'),
        ({"loggers": [LearningRateMonitor()]}, "is neither the name of a Logger nor one"),
        ({"trainer__limit_train_batches": 0}, "trainer.limit_train_batches must be above 0, got 0: there would be"),
        ({"trainer__limit_val_batches": 0.0}, "trainer.limit_val_batches must be above 0, got 0.0: the best weights"),
    ],
)
def test_what_would_end_a_training_later_is_refused_before_it(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer_of(tmp_path, **changes)


@pytest.mark.parametrize("monitor", ["val/bbox_AP50", "train/loss"])
def test_a_callback_may_watch_what_is_logged_and_nothing_else(monitor: str) -> None:
    config = load_config(DETECTION, {"callbacks": [{"type": "EarlyStopping", "monitor": monitor}]})
    check_validation(config, ["bbox_AP", "bbox_AP50"])
    other = load_config(DETECTION, {"callbacks": [{"type": "EarlyStopping", "monitor": "val/bbox_AP5"}]})
    with pytest.raises(ConfigError, match='"val/bbox_AP5", which is not logged; did you mean "val/bbox_AP50"'):
        check_validation(other, ["bbox_AP", "bbox_AP50"])
