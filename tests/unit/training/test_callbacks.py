"""Progress in plain lines, for logs that are no terminal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from swin_dense.training import callbacks
from swin_dense.training.callbacks import ProgressLines


def trainer_of(batches: int, epochs: int, first: bool = True, steps: int = -1) -> Any:
    """What the callback reads of a trainer that is about to do its first batch."""
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=-1))
    metrics = {"train/learning_rate": torch.tensor(1e-4), "val/bbox_AP": 0.25}
    return SimpleNamespace(
        is_global_zero=first,
        num_training_batches=batches,
        max_epochs=epochs,
        max_steps=steps,
        global_step=0,
        accumulate_grad_batches=2,
        current_epoch=0,
        fit_loop=loop,
        callback_metrics=metrics,
    )


MODULE: Any = SimpleNamespace(means={"train/loss": torch.tensor(2.5), "train/acc": torch.tensor(90.0)})
"""Before the first of its lines is logged."""


def run(trainer: Any, lines: ProgressLines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Does all batches, of two seconds each."""
    done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
    now = [100.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    lines.on_train_start(trainer, None)
    for step in range(done, trainer.num_training_batches * trainer.max_epochs):
        now[0] += 2
        trainer.fit_loop.epoch_loop.total_batch_idx = step
        trainer.current_epoch, batch = divmod(step, trainer.num_training_batches)
        trainer.global_step = (step + 1) // trainer.accumulate_grad_batches
        lines.on_train_batch_end(trainer, MODULE, None, None, batch)


def test_every_few_batches_and_the_last_of_an_epoch_have_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(trainer_of(batches=5, epochs=2), ProgressLines(every=2), monkeypatch)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        f"epoch {epoch}/2 batch {batch}/5 loss 2.500 | 2.00 s/batch, {left} left"
        for epoch, batch, left in (
            (1, 2, "0:00:16"),
            (1, 4, "0:00:12"),
            (1, 5, "0:00:10"),
            (2, 2, "0:00:06"),
            (2, 4, "0:00:02"),
            (2, 5, "0:00:00"),
        )
    ]


def test_a_schedule_of_steps_is_told_in_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two batches are a step; an epoch's end is nothing special."""
    run(trainer_of(batches=3, epochs=2, steps=3), ProgressLines(every=2), monkeypatch)
    assert capsys.readouterr().err.splitlines() == [
        "step 1/3 loss 2.500 | 2.00 s/batch, 0:00:08 left",
        "step 2/3 loss 2.500 | 2.00 s/batch, 0:00:04 left",
        "step 3/3 loss 2.500 | 2.00 s/batch, 0:00:00 left",
    ]


def test_the_speed_of_a_resumed_run_is_that_of_its_own_batches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = trainer_of(batches=4, epochs=3)
    trainer.fit_loop.epoch_loop.total_batch_idx = 8  # nine batches are done
    run(trainer, ProgressLines(every=100), monkeypatch)
    assert capsys.readouterr().err == "epoch 3/3 batch 4/4 loss 2.500 | 2.00 s/batch, 0:00:00 left\n"


def test_one_process_alone_talks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, lines = trainer_of(batches=2, epochs=1, first=False), ProgressLines(every=1)
    run(trainer, lines, monkeypatch)
    lines.on_validation_end(trainer, None)
    assert capsys.readouterr().err == ""


def test_validation_tells_its_average_precision(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressLines(every=1).on_validation_end(trainer_of(batches=2, epochs=3), None)
    assert capsys.readouterr().err == "epoch 1/3 bbox_AP 0.250\n"


def test_the_validation_of_the_end_is_of_the_last_epoch_though_the_trainer_is_further(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainer = trainer_of(batches=2, epochs=4)
    trainer.current_epoch = 4
    ProgressLines(every=1).on_validation_end(trainer, SimpleNamespace(trained_epoch=3))
    assert capsys.readouterr().err == "epoch 4/4 bbox_AP 0.250\n"
