"""The optimizer decays what the official code decays, and the schedule is the official one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from swin_dense.backbones import create_backbone
from swin_dense.training import SegmenterModule
from swin_dense.training.optim import (
    NO_DECAY,
    adamw,
    multistep_factor,
    polynomial_factor,
    warmup_multistep,
)


class Model(nn.Module):
    """A segmenter, as far as a module asks."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(1, 1)


def test_norms_and_position_tables_are_not_decayed_and_biases_are() -> None:
    model = nn.ModuleDict({"backbone": create_backbone("swin_nano"), "bn": nn.BatchNorm2d(4)})
    model["backbone"].patch_embed.proj.weight.requires_grad = False
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, kept = adamw(
        model, learning_rate=1e-4, weight_decay=0.05, betas=(0.9, 0.99), no_decay=NO_DECAY
    ).param_groups
    assert decayed["weight_decay"] == 0.05
    assert kept["weight_decay"] == 0.0
    decayed_names = {names[id(parameter)] for parameter in decayed["params"]}
    kept_names = {names[id(parameter)] for parameter in kept["params"]}
    assert "backbone.layers.0.blocks.0.attn.qkv.bias" in decayed_names
    assert "bn.weight" in decayed_names
    assert "backbone.layers.0.blocks.0.attn.relative_position_bias_table" in kept_names
    assert "backbone.layers.0.downsample.norm.weight" in kept_names
    assert "backbone.norm3.bias" in kept_names
    frozen = {"backbone.patch_embed.proj.weight"}
    assert decayed_names | kept_names | frozen == set(names.values())


def test_the_schedule_warms_up_linearly_and_steps_down() -> None:
    def factor(step: int) -> float:
        return multistep_factor(step, milestones=(800, 1100), gamma=0.1, warmup_steps=500, warmup_ratio=0.001)

    # mmcv's linear warm-up: 1 - (1 - step / steps) * (1 - ratio)
    for step in (0, 1, 250, 499):
        assert factor(step) == pytest.approx(1 - (1 - step / 500) * (1 - 0.001), rel=1e-12)
    assert [factor(step) for step in (500, 799)] == [1.0, 1.0]
    assert [factor(step) for step in (800, 1099, 1100)] == pytest.approx([0.1, 0.1, 0.01])


def test_milestones_are_epochs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = warmup_multistep(
        optimizer, milestones=(2, 3), gamma=0.1, warmup_steps=0, warmup_ratio=0.1, steps_per_epoch=5
    )
    rates = []
    for _ in range(20):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1.0] * 10 + [0.1] * 5 + [0.01] * 5)


def test_the_polynomial_schedule_warms_up_on_a_decay_that_has_begun() -> None:
    """mmcv's PolyLrUpdater by iteration, with its linear warm-up of the decayed rate."""

    def factor(step: int, power: float = 1.0) -> float:
        return polynomial_factor(step, steps=160_000, power=power, warmup_steps=1500, warmup_ratio=1e-6)

    for step in (0, 1, 700, 1499):
        warmup = 1 - (1 - step / 1500) * (1 - 1e-6)
        assert factor(step) == pytest.approx((1 - step / 160_000) * warmup, rel=1e-12)
    assert factor(1500) == 1 - 1500 / 160_000
    assert [factor(step) for step in (80_000, 160_000, 200_000)] == [0.5, 0.0, 0.0]
    assert factor(80_000, power=0.9) == pytest.approx(0.5**0.9)


def test_the_polynomial_scheduler_follows_its_formula() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    module = SegmenterModule(Model(), power=1.0, warmup_steps=2, warmup_ratio=0.5)
    trainer = SimpleNamespace(estimated_stepping_batches=10)
    module.trainer = cast(Trainer, trainer)
    scheduler = module.schedule(optimizer)
    rates = []
    for _ in range(10):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    expected = [2 * (1 - step / 10) for step in range(10)]
    assert rates == pytest.approx([expected[0] * 0.5, expected[1] * 0.75, *expected[2:]])
