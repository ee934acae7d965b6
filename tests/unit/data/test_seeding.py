"""What a sample looks like depends on (seed, epoch, index) and on nothing else."""

from __future__ import annotations

import random

import numpy as np
import torch

from swin_dense.data.samplers import SeededDataset


class Numbers:
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[float, ...]:
        return (float(index),)


def noisy(item: tuple[float, ...]) -> tuple[float, ...]:
    """Draws from every generator that a user's transform might use."""
    return (*item, float(torch.rand(())), float(np.random.rand()), random.random())


def test_an_item_is_the_same_whatever_was_drawn_before() -> None:
    dataset = SeededDataset(Numbers(), noisy, seed=1)
    first = dataset[3, 4]
    torch.rand(5), np.random.rand(5), random.random(), dataset[0, 0]
    assert dataset[3, 4] == first and first[0] == 4


def test_every_seed_epoch_and_index_has_randomness_of_its_own() -> None:
    items = [SeededDataset(Numbers(), noisy, seed)[epoch, i] for seed in (0, 1) for epoch in (0, 1) for i in range(10)]
    for draws in list(zip(*items, strict=True))[1:]:
        assert len(set(draws)) == 40
    torch_draws = np.array([SeededDataset(Numbers(), noisy, 0)[epoch, 0][1] for epoch in range(1000)])
    assert abs(torch_draws.mean() - 0.5) < 0.04 and abs(np.corrcoef(torch_draws[1:], torch_draws[:-1])[0, 1]) < 0.13


def test_the_training_process_keeps_its_own_randomness() -> None:
    dataset = SeededDataset(Numbers(), noisy, seed=1)

    def draws(read: bool) -> list[float]:
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        if read:
            dataset[0, 1]
        return [float(torch.rand(())), float(np.random.rand()), random.random()]

    assert draws(read=True) == draws(read=False)


def test_the_training_process_keeps_its_randomness_when_a_transform_fails() -> None:
    def fail(item: tuple[float, ...]) -> tuple[float, ...]:
        raise ValueError

    torch.manual_seed(0)
    state = torch.get_rng_state()
    try:
        SeededDataset(Numbers(), fail, 0)[0, 0]
    except ValueError:
        pass
    assert torch.equal(torch.get_rng_state(), state)
