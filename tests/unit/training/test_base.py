"""A training step's randomness depends on its place alone; a loss that is not finite stops with names."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from swin_dense.errors import TrainingError
from swin_dense.records import Batch
from swin_dense.training.base import seed_step, total_loss

BATCH = Batch(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), ((4, 4),) * 2, ((4, 4),) * 2, (7, 9), ("a.jpg", "b.jpg"))


def draws() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_the_same_place_draws_the_same_and_any_other_place_something_else() -> None:
    seed_step(1, 2, 3, 4)
    first = draws()
    seed_step(1, 2, 3, 4)
    assert draws() == first
    for place in ((0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)):
        seed_step(*place)
        assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_only_losses_are_added_up() -> None:
    terms = {"loss_rpn_cls": torch.tensor(1.0), "acc": torch.tensor(90.0), "s0.loss_bbox": torch.tensor(2.0)}
    assert float(total_loss(terms, BATCH)) == 3.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_term_and_the_images(value: float) -> None:
    terms = {"loss_cls": torch.tensor(1.0), "loss_bbox": torch.tensor(value)}
    with pytest.raises(TrainingError, match=rf"loss_bbox={value}.*7 \(a.jpg\), 9 \(b.jpg\)"):
        total_loss(terms, BATCH)
