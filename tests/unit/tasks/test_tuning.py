"""Trials before a training: what they find, and that nothing of them is kept."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.commands import command
from swin_dense.config import load_config
from swin_dense.data.shapes import write_shapes
from swin_dense.errors import ConfigError, TrainingError
from swin_dense.inference.classification import ImageClassifier
from swin_dense.tasks import tuning
from swin_dense.training import ClassifierModule


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=4, val=1) / "imagenet"


def config(images: Path, **changes: Any) -> Any:
    return load_config("swin-nano_shapes", {"data.root": str(images), "data.num_workers": 0, **changes})


def losses_of_rates(monkeypatch: pytest.MonkeyPatch, loss: Any) -> None:
    """Training with a loss that depends on the learning rate alone."""

    def losses(self: Any, batch: Any) -> dict[str, torch.Tensor]:
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        return {"loss": 0.0 * sum(one.sum() for one in self.network.parameters()) + loss(rate)}

    monkeypatch.setattr(ClassifierModule, "losses", losses)


def test_the_rate_lies_where_the_loss_falls_and_infinite_losses_end_the_search(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses_of_rates(monkeypatch, lambda rate: float("nan") if rate > 0.02 else 5.0 if rate < 1e-3 else 1.0)
    found = tuning.tune(config(images), "learning-rate", steps=50, device="cpu")
    assert 1e-3 < found["learning_rate"] < 3e-3 and found["in_config"] == config(images).optimizer.learning_rate
    assert found["steps"] < 50 and found["tried"][1] < 0.02
    assert load_config(config(images), found["set"]).optimizer.learning_rate == found["learning_rate"]
    losses_of_rates(monkeypatch, lambda rate: float("nan"))
    with pytest.raises(TrainingError, match="finite number for 0 of 50 steps"):
        tuning.tune(config(images), "learning-rate", steps=50, device="cpu")


@pytest.mark.parametrize(("images_per_step", "suggested"), [(None, 4), (6, 3)])
def test_the_batch_grows_until_memory_is_full(
    images: Path, monkeypatch: pytest.MonkeyPatch, images_per_step: int | None, suggested: int
) -> None:
    """Steps keep the number of images that the recipe asks for."""
    seen = []

    def normalised(self: Any, batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        if len(batch) > 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return batch.float()

    monkeypatch.setattr(ImageClassifier, "normalised", normalised)
    changes = {"data.batch_size": 1, "training.images_per_step": images_per_step}
    with monkeypatch.context() as patched, pytest.raises(ConfigError, match="batch-size.* needs a CUDA device"):
        patched.setattr(tuning, "data_set_up", lambda _: pytest.fail("reads the data first"))
        tuning.tune(config(images, **changes), "batch-size", device="cpu")
    monkeypatch.setattr(tuning, "BOUNDED", ("cpu",))
    found = tuning.tune(config(images, **changes), "batch-size", device="cpu")
    assert (found["batch_size"], found["largest"], max(seen)) == (suggested, 4, 8)


def test_the_command_trains_nothing_and_says_what_to_set(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    losses_of_rates(monkeypatch, lambda rate: 5.0 if rate < 1e-3 else 1.0)
    monkeypatch.setattr("swin_dense.tasks.tuning.tune", partial(tuning.tune, steps=30))
    words = ["train", "swin-nano_shapes", "--data", str(images), "--set", "data.num_workers=0", "--device", "cpu"]
    assert command(*words, "--tune", "learning-rate") == 0
    assert "train with --set optimizer.learning_rate=0.0" in " ".join(capsys.readouterr().out.split())
    assert command(*words, "--tune", "learning-rat") == command(*words, "--tune", "batch-size", "--run", "x") == 2
    assert list(tmp_path.iterdir()) == []
