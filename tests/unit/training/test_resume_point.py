"""The end of a training is validated and saved, however it is counted, and wherever a signal comes."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from helpers.commands import REPOSITORY
from swin_dense.config import load_config
from swin_dense.errors import TrainingInterruptedError
from swin_dense.training.trainer import surroundings, training_trainer

DEMO = REPOSITORY / "configs" / "demo"
STEPS = DEMO / "upernet_swin-nano_shapes.py"
EPOCHS = DEMO / "mask-rcnn_swin-nano_shapes.py"
BATCHES = 4  # of an epoch


class Counting(LightningModule):
    """Its one weight goes up by 1 in every step, and is its score."""

    means: ClassVar[dict[str, Tensor]] = {}  # of losses, which our modules have

    def __init__(self, signal_at: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.signal_at = signal_at
        self.validated: list[tuple[int, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.global_step == self.signal_at:
            signal.raise_signal(signal.SIGINT)
        return -self.weight

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, list[Any]]:
        self.validated.append((self.global_step, self.weight.item()))
        for name in ("mIoU", "segm_AP", "bbox_AP"):
            self.log(f"val/{name}", self.weight, batch_size=1)
        return {"predictions": []}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        assert self.weight.grad is not None
        self.weight.grad.sign_()  # however many batches it is the sum of

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def train_dataloader(self) -> DataLoader[Any]:
        return loader(BATCHES)

    def val_dataloader(self) -> DataLoader[Any]:
        return loader(1)


def loader(batches: int) -> DataLoader[Any]:
    batch: Any = SimpleNamespace(image_ids=(), file_names=())
    return DataLoader([batch] * batches, batch_size=None)


def train(run: Path, config: Path, *overrides: str, signal_at: int | None = None, resume: bool = False) -> Counting:
    module = Counting(signal_at)
    here = ["trainer.accelerator=cpu", "trainer.devices=1"]
    trainer = training_trainer(load_config(config, [*overrides, *here]), run, lambda *_: None)
    checkpoint = run / "last.ckpt" if resume else None
    try:
        trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
    except TrainingInterruptedError:
        assert signal_at is not None
    return module


def weight_of(checkpoint: Path) -> float:
    return float(torch.load(checkpoint, weights_only=True)["state_dict"]["weight"])


ENDS = [
    pytest.param(STEPS, ["schedule.steps=3", "training.validate_every=3"], [3], id="where a validation is due"),
    pytest.param(STEPS, ["schedule.steps=5", "training.validate_every=2"], [2, 4, 5], id="between validations"),
    pytest.param(STEPS, ["schedule.steps=2", "training.validate_every=9"], [2], id="before the first validation"),
    # Four batches are two steps, the second one of a single batch: two steps come before six batches are done.
    pytest.param(
        STEPS, ["schedule.steps=2", "training.validate_every=2", "training.accumulate=3"], [2], id="accumulated"
    ),
    pytest.param(EPOCHS, ["schedule.epochs=2", "training.validate_every=1"], [4, 8], id="epochs, each validated"),
    pytest.param(EPOCHS, ["schedule.epochs=3", "training.validate_every=2"], [8, 12], id="epochs, each second one"),
]


@pytest.mark.parametrize(("config", "overrides", "expected"), ENDS)
def test_the_end_is_validated_once_and_becomes_the_best(
    tmp_path: Path, config: Path, overrides: list[str], expected: list[int]
) -> None:
    found = train(tmp_path, config, *overrides).validated
    assert found == [(step, float(step)) for step in expected]
    assert [weight_of(tmp_path / name) for name in ("best.ckpt", "last.ckpt")] == [expected[-1]] * 2


@pytest.mark.parametrize(("config", "overrides", "expected"), ENDS)
def test_a_finished_training_has_nothing_to_resume(
    tmp_path: Path, config: Path, overrides: list[str], expected: list[int]
) -> None:
    train(tmp_path, config, *overrides)
    assert train(tmp_path, config, *overrides, resume=True).validated == []
    assert [weight_of(tmp_path / name) for name in ("best.ckpt", "last.ckpt")] == [expected[-1]] * 2


@pytest.mark.parametrize("every", [1, 1000], ids=["saved in every step", "hardly saved"])
@pytest.mark.parametrize(("config", "overrides", "expected"), ENDS)
def test_a_signal_in_the_last_step_leaves_an_end_that_is_validated(
    tmp_path: Path, config: Path, overrides: list[str], expected: list[int], every: int
) -> None:
    overrides = [*overrides, f"training.checkpoint_every={every}"]
    first = train(tmp_path, config, *overrides, signal_at=expected[-1] - 1)
    resumed = train(tmp_path, config, *overrides, resume=True)
    assert first.validated + resumed.validated == [(step, float(step)) for step in expected]
    assert [weight_of(tmp_path / name) for name in ("best.ckpt", "last.ckpt")] == [expected[-1]] * 2
    assert train(tmp_path, config, *overrides, resume=True).validated == []


@pytest.mark.parametrize(("every", "said"), [(1, "swin_dense.train(resume="), (1000, "")])
def test_a_second_signal_stops_at_once_and_says_how_to_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], every: int, said: str
) -> None:
    class Twice(Counting):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if self.global_step == 2:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
            return super().training_step(batch, batch_idx)

    options = [f"training.checkpoint_every={every}", "trainer.accelerator=cpu", "trainer.devices=1"]
    trainer = training_trainer(load_config(EPOCHS, options), tmp_path, lambda *_: None)
    with surroundings(), pytest.raises(SystemExit):
        trainer.fit(Twice())
    stderr = capsys.readouterr().err
    assert ("stopped at once; continue from the last checkpoint with: " in stderr) == bool(said) and said in stderr
    assert (tmp_path / "last.ckpt").is_file() == bool(said)


def test_the_average_is_what_is_validated_and_saved_at_the_end(tmp_path: Path) -> None:
    overrides = ["schedule.steps=3", "training.validate_every=2", "training.ema_decay=0.5"]
    found = train(tmp_path, STEPS, *overrides).validated
    averages = [1.0, 1.5, 2.25]  # after each step: begins with the first weight, then half of it and half of the new
    assert found == [(2, averages[1]), (3, averages[2])]
    assert [weight_of(tmp_path / name) for name in ("best.ckpt", "last.ckpt")] == [averages[2]] * 2


def test_a_longer_training_continues_from_the_weights_and_their_average(tmp_path: Path) -> None:
    overrides = ["training.validate_every=5", "training.ema_decay=0.5"]
    whole = train(tmp_path / "whole", STEPS, *overrides, "schedule.steps=5").validated
    train(tmp_path / "run", STEPS, *overrides, "schedule.steps=3")
    assert train(tmp_path / "run", STEPS, *overrides, "schedule.steps=5", resume=True).validated == whole


def killed_in_a_validation(run: Path, config: Path, *overrides: str) -> None:
    """Ends without a word to anything, as if killed."""

    class Killed(Counting):
        def on_validation_epoch_start(self) -> None:
            raise RuntimeError("killed")

    here = ["trainer.accelerator=cpu", "trainer.devices=1"]
    trainer = training_trainer(load_config(config, [*overrides, *here]), run, lambda *_: None)
    with pytest.raises(RuntimeError, match="killed"):
        trainer.fit(Killed())


@pytest.mark.parametrize(("config", "overrides", "expected"), ENDS)
def test_a_checkpoint_is_written_before_a_validation_which_is_made_up_for(
    tmp_path: Path, config: Path, overrides: list[str], expected: list[int]
) -> None:
    """Also before the last one, after which nothing is left to train."""
    killed_in_a_validation(tmp_path, config, *overrides)
    assert weight_of(tmp_path / "last.ckpt") == expected[0]
    assert train(tmp_path, config, *overrides, resume=True).validated == [(step, float(step)) for step in expected]
    assert [weight_of(tmp_path / name) for name in ("best.ckpt", "last.ckpt")] == [expected[-1]] * 2


def test_a_run_that_is_moved_keeps_its_best_score(tmp_path: Path) -> None:
    """Its weight goes down from now on, so that nothing better comes."""
    overrides = ["training.validate_every=1"]
    train(tmp_path / "first", EPOCHS, *overrides, "schedule.epochs=2")
    (tmp_path / "first").rename(tmp_path / "moved")

    class Falling(Counting):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.weight

    here = ["trainer.accelerator=cpu", "trainer.devices=1", "schedule.epochs=3"]
    trainer = training_trainer(load_config(EPOCHS, [*overrides, *here]), tmp_path / "moved", lambda *_: None)
    trainer.fit(module := Falling(), ckpt_path=tmp_path / "moved" / "last.ckpt", weights_only=True)
    assert module.validated == [(12, 4.0)]
    assert weight_of(tmp_path / "moved" / "best.ckpt") == 8.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved"]


def test_the_best_few_are_kept_too(tmp_path: Path) -> None:
    train(tmp_path, EPOCHS, "schedule.epochs=4", "training.validate_every=1", "training.save_top_k=2")
    assert sorted(path.name for path in tmp_path.glob("top-*.ckpt")) == ["top-step=12.ckpt", "top-step=16.ckpt"]
    assert weight_of(tmp_path / "best.ckpt") == 16.0
