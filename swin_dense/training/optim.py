"""AdamW with the official no-decay rule and layer-wise learning rates, and the official learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Trainer
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from swin_dense.errors import ConfigError

NO_DECAY = ("absolute_pos_embed", "relative_position_bias_table", "logit_scale", "cpb_mlp", "norm")
"""The official rules of Swin and Swin V2: biases are decayed, and so are batch norms, which are named "bn"."""


@runtime_checkable
class LayeredBackbone(Protocol):
    """A backbone that knows how deep its parameters lie."""

    def parameter_depths(self) -> dict[str, int]:
        """Depth by parameter name: 0 for what sees the image first, the greatest for what hands the features out."""


def adamw(
    module: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    no_decay: Sequence[str],
    layer_decay: float | None = None,
    backbone_factor: float = 1.0,
) -> AdamW:
    """AdamW over the parameters that learn; those whose name holds a part of `no_decay` have no weight decay.

    `layer_decay` is the factor on the learning rate from one layer of the backbone to the layer before it (BEiT, arXiv
    2106.08254, section 3.1). Each layer has two parameter groups, with and without weight decay; those with the full
    learning rate come first. `backbone_factor` is another factor, on the learning rate of the whole backbone.
    """
    layers = {} if layer_decay is None else _layers_above(module, layer_decay)
    backbone = {} if backbone_factor == 1.0 else _layers_above(module, 1.0)
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            kept = any(part in name for part in no_decay)
            groups.setdefault((name in backbone, layers.get(name, 0), kept), []).append(parameter)
    return AdamW(
        [
            {
                "params": groups[inside, above, kept],
                "weight_decay": 0.0 if kept else weight_decay,
                "lr": learning_rate * (layer_decay or 1.0) ** above * (backbone_factor if inside else 1.0),
            }
            for inside, above, kept in sorted(groups)
        ],
        lr=learning_rate,
        betas=betas,
    )


def _layers_above(module: nn.Module, layer_decay: float) -> dict[str, int]:
    """How many layers of the backbone lie above each of its parameters, by name in `module`."""
    if not 0.0 < layer_decay <= 1.0:
        raise ConfigError(f"optimizer.layer_decay is {layer_decay}; it must be above 0 and at most 1")
    layers: dict[str, int] = {}
    for path, backbone in module.named_modules():
        if isinstance(backbone, LayeredBackbone):
            depths = backbone.parameter_depths()
            top = max(depths.values())
            layers |= {f"{path}.{name}" if path else name: top - depth for name, depth in depths.items()}
    if not layers:
        raise ConfigError(
            "optimizer.layer_decay needs a backbone that numbers its layers, as SwinDense does; leave it out for others"
        )
    return layers


def steps_per_epoch(trainer: Trainer) -> int:
    """Optimizer steps of an epoch of a training that is about to start."""
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()
    return math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)


def warmup_factor(step: int, warmup_steps: int, warmup_ratio: float) -> float:
    """Linear warm-up from `warmup_ratio` at step 0 to 1."""
    return 1.0 if step >= warmup_steps else warmup_ratio + (1 - warmup_ratio) * step / warmup_steps


def multistep_factor(
    step: int, *, milestones: Sequence[int], gamma: float, warmup_steps: int, warmup_ratio: float
) -> float:
    """Linear warm-up times a factor `gamma` for each of the `milestones` (steps) that is reached."""
    reached = sum(step >= milestone for milestone in milestones)
    return float(warmup_factor(step, warmup_steps, warmup_ratio) * gamma**reached)


def polynomial_factor(step: int, *, steps: int, power: float, warmup_steps: int, warmup_ratio: float) -> float:
    """Linear warm-up times a decay to zero, `(1 - step / steps) ** power`."""
    decay = max(0.0, 1 - step / steps) ** power
    return float(warmup_factor(step, warmup_steps, warmup_ratio) * decay)


def cosine_factor(step: int, *, steps: int, min_ratio: float, warmup_steps: int, warmup_ratio: float) -> float:
    """Linear warm-up to 1, then half a cosine down to `min_ratio` at the last of `steps`."""
    if step < warmup_steps:
        return warmup_factor(step, warmup_steps, warmup_ratio)
    done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * done))


def warmup_multistep(
    optimizer: Optimizer, *, milestones: Sequence[int], steps_per_epoch: int, **options: Any
) -> LambdaLR:
    """`multistep_factor` as a scheduler that is stepped after every optimizer step; `milestones` are epochs."""
    steps = [epoch * steps_per_epoch for epoch in milestones]
    return LambdaLR(optimizer, partial(multistep_factor, milestones=steps, **options))
