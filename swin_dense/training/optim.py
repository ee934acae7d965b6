"""AdamW with the official no-decay rule and layer-wise learning rates, and the official learning-rate schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from swin_dense.errors import ConfigError

NO_DECAY = ("absolute_pos_embed", "relative_position_bias_table", "norm")
"""The official rule: linear and convolution biases are decayed, and so are batch norms, which are named "bn"."""


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
) -> AdamW:
    """AdamW over the parameters that learn.

    Args:
        module: Frozen parameters of it are left out.
        learning_rate: Of every parameter; see `layer_decay`.
        weight_decay: Of every parameter whose name holds none of `no_decay`.
        betas: Momentum coefficients.
        no_decay: Parts of names, such as `NO_DECAY`.
        layer_decay: Factor on the learning rate from one layer of the backbone to the layer before it (BEiT, arXiv
            2106.08254, section 3.1); None gives every layer the same.

    Returns:
        The optimizer. Each layer has two parameter groups, with and without weight decay; those with the full learning
        rate come first.

    Raises:
        ConfigError: `layer_decay` is out of its range, or the backbone does not tell its layers.
    """
    layers = {} if layer_decay is None else _layers_above(module, layer_decay)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            kept = any(part in name for part in no_decay)
            groups.setdefault((layers.get(name, 0), kept), []).append(parameter)
    return AdamW(
        [
            {
                "params": groups[above, kept],
                "weight_decay": 0.0 if kept else weight_decay,
                "lr": learning_rate * (layer_decay or 1.0) ** above,
            }
            for above, kept in sorted(groups)
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
            "optimizer.layer_decay needs a backbone that tells its layers, as SwinDense does; leave it out for others"
        )
    return layers


def warmup_factor(step: int, warmup_steps: int, warmup_ratio: float) -> float:
    """Linear warm-up.

    Args:
        step: Counted from 0.
        warmup_steps: Its length.
        warmup_ratio: The factor at step 0.

    Returns:
        Between `warmup_ratio` and 1.
    """
    return 1.0 if step >= warmup_steps else warmup_ratio + (1 - warmup_ratio) * step / warmup_steps


def multistep_factor(
    step: int, *, milestones: Sequence[int], gamma: float, warmup_steps: int, warmup_ratio: float
) -> float:
    """The factor on the learning rate of one optimizer step: linear warm-up times steps down.

    Args:
        step: Counted from 0.
        milestones: Steps at which the factor is multiplied by `gamma`.
        gamma: That multiplier.
        warmup_steps: Length of the warm-up.
        warmup_ratio: The factor at step 0.

    Returns:
        Between 0 and 1.
    """
    reached = sum(step >= milestone for milestone in milestones)
    return float(warmup_factor(step, warmup_steps, warmup_ratio) * gamma**reached)


def polynomial_factor(step: int, *, steps: int, power: float, warmup_steps: int, warmup_ratio: float) -> float:
    """The factor on the learning rate of one optimizer step: linear warm-up times a decay to zero.

    Args:
        step: Counted from 0.
        steps: Length of the training.
        power: The decay is `(1 - step / steps) ** power`.
        warmup_steps: Length of the warm-up.
        warmup_ratio: The factor at step 0.

    Returns:
        Between 0 and 1.
    """
    decay = max(0.0, 1 - step / steps) ** power
    return float(warmup_factor(step, warmup_steps, warmup_ratio) * decay)


def warmup_multistep(
    optimizer: Optimizer,
    *,
    milestones: Sequence[int],
    gamma: float,
    warmup_steps: int,
    warmup_ratio: float,
    steps_per_epoch: int,
) -> LambdaLR:
    """The schedule as a PyTorch scheduler that is stepped after every optimizer step.

    Args:
        optimizer: Whose learning rates are scaled.
        milestones: Epochs after which the learning rate goes down.
        gamma: By this factor.
        warmup_steps: In optimizer steps.
        warmup_ratio: First factor.
        steps_per_epoch: Optimizer steps.

    Returns:
        The scheduler.
    """
    steps = [epoch * steps_per_epoch for epoch in milestones]
    return LambdaLR(
        optimizer,
        lambda step: multistep_factor(
            step, milestones=steps, gamma=gamma, warmup_steps=warmup_steps, warmup_ratio=warmup_ratio
        ),
    )


def warmup_polynomial(
    optimizer: Optimizer, *, steps: int, power: float, warmup_steps: int, warmup_ratio: float
) -> LambdaLR:
    """The schedule as a PyTorch scheduler that is stepped after every optimizer step.

    Args:
        optimizer: Whose learning rates are scaled.
        steps: Length of the training.
        power: Of the decay.
        warmup_steps: In optimizer steps.
        warmup_ratio: First factor.

    Returns:
        The scheduler.
    """
    return LambdaLR(
        optimizer,
        lambda step: polynomial_factor(
            step, steps=steps, power=power, warmup_steps=warmup_steps, warmup_ratio=warmup_ratio
        ),
    )
