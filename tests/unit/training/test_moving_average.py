"""The moving average of the weights: the formula, and what must not drift."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from swin_dense.training.callbacks import MovingAverage


class Counting(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.moving = nn.Parameter(torch.zeros(1000))
        self.frozen = nn.Parameter(torch.randn(1000, generator=torch.Generator().manual_seed(0)), requires_grad=False)
        self.register_buffer("constant", torch.arange(1000))

    def average(self, decay: float, values: list[float]) -> dict[str, Tensor]:
        """Updates the average once for each value of what moves, as the callback does after each step."""
        callback = MovingAverage(decay)
        callback.setup(trainer_on("cpu"), self, "fit")
        averaged = callback._average_model
        for value in values:
            self.moving.data.fill_(value)
            averaged.update_parameters(self)
        return dict(averaged.module.state_dict())


def trainer_on(device: str) -> Any:
    return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))


def test_the_average_lies_where_the_weights_will_lie() -> None:
    """Lightning makes it before it moves them; each step would carry all weights of a GPU to the CPU."""
    callback = MovingAverage(0.9)
    callback.setup(trainer_on("meta"), Counting(), "fit")
    assert callback._average_model.module.moving.device.type == "meta"


def test_it_begins_with_the_first_weights_and_follows_the_formula() -> None:
    found = Counting().average(0.9, [1.0, 2.0, 4.0])["moving"]
    assert found.unique().tolist() == pytest.approx([0.9 * (0.9 * 1.0 + 0.1 * 2.0) + 0.1 * 4.0])


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99, 0.999])
def test_what_does_not_move_keeps_every_bit(decay: float) -> None:
    module = Counting()
    found = module.average(decay, [float(step) for step in range(200)])
    assert torch.equal(found["frozen"], module.frozen)
    assert torch.equal(found["constant"], module.constant)
