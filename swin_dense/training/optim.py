"""AdamW with the official no-decay rule, and the official learning-rate schedules."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

NO_DECAY = ("absolute_pos_embed", "relative_position_bias_table", "norm")
"""The official rule: linear and convolution biases are decayed, and so are batch norms, which are named "bn"."""


def adamw(
    module: nn.Module, *, learning_rate: float, weight_decay: float, betas: tuple[float, float], no_decay: Sequence[str]
) -> AdamW:
    """AdamW over the parameters that learn.

    Args:
        module: Frozen parameters of it are left out.
        learning_rate: Of every parameter.
        weight_decay: Of every parameter whose name holds none of `no_decay`.
        betas: Momentum coefficients.
        no_decay: Parts of names, such as `NO_DECAY`.

    Returns:
        The optimizer with two parameter groups.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups[not any(part in name for part in no_decay)].append(parameter)
    return AdamW(
        [
            {"params": parameters, "weight_decay": weight_decay if decayed else 0.0}
            for decayed, parameters in groups.items()
            if parameters
        ],
        lr=learning_rate,
        betas=betas,
    )


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
