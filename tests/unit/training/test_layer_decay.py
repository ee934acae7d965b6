"""Learning rates that decay from the heads to the image, and the schedules on top of them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from swin_dense.backbones import create_backbone
from swin_dense.errors import ConfigError
from swin_dense.training.optim import NO_DECAY, adamw, warmup_multistep

RATE, DECAY = 1e-3, 0.5


class Detector(nn.Module):
    """Our backbone with 8 blocks, deep inside, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.ModuleDict(
            {
                "backbone": create_backbone("swin_nano", frozen_stages=0),
                "neck": nn.LayerNorm(4),
                "head": nn.Linear(4, 4),
            }
        )


def optimizer(model: nn.Module, layer_decay: float | None = DECAY) -> AdamW:
    return adamw(
        model,
        learning_rate=RATE,
        weight_decay=0.05,
        betas=(0.9, 0.99),
        no_decay=NO_DECAY,
        layer_decay=layer_decay,
    )


def settings(model: nn.Module, made: AdamW) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay by parameter name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in made.param_groups
        for parameter in group["params"]
    }


def test_the_rate_halves_from_block_to_block_and_weight_decay_stays_what_it_was() -> None:
    model = Detector()
    found = settings(model, optimizer(model))
    backbone = "network.backbone."
    assert {name: found[name] for name in found if "head" in name} == {
        "network.head.weight": (RATE, 0.05),
        "network.head.bias": (RATE, 0.05),
    }
    assert found["network.neck.weight"] == (RATE, 0.05)  # a norm, but not named so: the official rule goes by names
    assert found[f"{backbone}norm3.weight"] == (RATE, 0.0)
    assert found[f"{backbone}layers.3.blocks.1.mlp.fc1.bias"] == (RATE / 2, 0.05)
    assert found[f"{backbone}layers.3.blocks.0.mlp.fc1.bias"] == (RATE / 4, 0.05)
    assert found[f"{backbone}layers.2.downsample.reduction.weight"] == (RATE / 8, 0.05)
    assert found[f"{backbone}layers.2.downsample.norm.weight"] == (RATE / 8, 0.0)
    assert found[f"{backbone}layers.0.blocks.0.attn.relative_position_bias_table"] == (RATE / 2**8, 0.0)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert found.keys() == learning
    assert not any("patch_embed" in name for name in found)
    without = settings(model, optimizer(model, layer_decay=None))
    assert {name: decay for name, (_, decay) in found.items()} == {name: decay for name, (_, decay) in without.items()}
    assert {rate for rate, _ in without.values()} == {RATE}


def test_the_patch_embedding_lies_below_every_block() -> None:
    backbone = create_backbone("swin_nano")
    assert settings(backbone, optimizer(backbone))["patch_embed.proj.weight"] == (RATE * DECAY**9, 0.05)


def test_a_decay_of_one_is_none() -> None:
    model = Detector()
    assert settings(model, optimizer(model, 1.0)) == settings(model, optimizer(model, None))


def test_each_layer_has_two_groups_and_the_full_rate_comes_first() -> None:
    """The first group's rate is what is logged as the learning rate."""
    groups = optimizer(Detector()).param_groups
    assert groups[0]["lr"] == RATE
    assert set(Counter(group["lr"] for group in groups).values()) == {2}


def test_the_schedule_scales_every_layer() -> None:
    made = optimizer(Detector())
    full = [group["lr"] for group in made.param_groups]
    scheduler = warmup_multistep(made, milestones=(1,), gamma=0.1, warmup_steps=2, warmup_ratio=0.5, steps_per_epoch=3)
    for factor in (0.5, 0.75, 1.0, 0.1):
        assert [group["lr"] for group in made.param_groups] == pytest.approx([rate * factor for rate in full])
        made.step()
        scheduler.step()


def test_a_step_moves_deep_layers_less() -> None:
    """Adam's first step is the learning rate, whatever the gradient."""
    model = Detector()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    adamw(model, learning_rate=RATE, weight_decay=0.0, betas=(0.9, 0.99), no_decay=NO_DECAY, layer_decay=DECAY).step()
    moved = {name: float((after.detach() - before[name]).abs().max()) for name, after in model.named_parameters()}
    assert moved["network.head.weight"] == pytest.approx(RATE, rel=1e-3)
    assert moved["network.backbone.layers.3.blocks.0.mlp.fc1.bias"] == pytest.approx(RATE / 4, rel=1e-3)
    assert moved["network.backbone.patch_embed.proj.weight"] == 0.0


@pytest.mark.parametrize("layer_decay", [0.0, -0.5, 1.1, float("nan")])
def test_values_out_of_range_are_refused(layer_decay: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        optimizer(Detector(), layer_decay)


def test_other_backbones_are_refused() -> None:
    with pytest.raises(ConfigError, match="SwinDense"):
        optimizer(nn.Sequential(nn.Linear(2, 2)))
