"""Focal loss (Lin et al. 2017, eq. 5) of N rows and K classes, with the sigmoid or the softmax of logits.

    loss = -alpha' * (1 - s)^gamma * log(s)

With the sigmoid each element has one: s = sigmoid(x) and alpha' = alpha for the target class, s = sigmoid(-x) and
alpha' = 1 - alpha for all others. With the softmax each row has one: s is the target's, and alpha' = alpha.

Targets (N,) are int64 classes. `weight` (K,) is a factor for the rows of each class, or empty for none. All buffers are
overwritten.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.ops import full_precision

_TINY = torch.finfo(torch.float32).tiny  # below which mmcv takes no logarithm


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """The loss of every logit (N, K); target K, or a negative one, is background, whose rows have weight 1."""
    logits, _, scale = _signed_logits(input, target, weight, alpha)
    output.copy_(-scale * torch.sigmoid(-logits) ** gamma * functional.logsigmoid(logits))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """The derivative of every element's loss with respect to its logit (N, K)."""
    logits, sign, scale = _signed_logits(input, target, weight, alpha)
    wrong, right = torch.sigmoid(-logits), torch.sigmoid(logits)
    derivative = wrong**gamma * (gamma * right * functional.logsigmoid(logits) - wrong)
    grad_input.copy_(sign * scale * derivative)


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """The loss of every row (N,), from the softmax (N, K) of its logits; 0 for a negative target."""
    chance, factor = _target_chance(input, target, weight, alpha)
    output.copy_(-factor * (1 - chance) ** gamma * chance.clamp(min=_TINY).log())


def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """The derivative of every row's loss with respect to its logits (N, K); `buff` is (N,) scratch space."""
    chance, factor = _target_chance(input, target, weight, alpha)
    wrong = (1 - chance).clamp(min=_TINY)
    slope = gamma * wrong ** (gamma - 1) * chance * chance.clamp(min=_TINY).log() - wrong**gamma
    is_target = target[:, None] == torch.arange(input.shape[1], device=input.device)
    grad_input.copy_((factor * slope)[:, None] * (is_target.to(chance.dtype) - input))


def _target_chance(softmax: Tensor, target: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The softmax of each row's target, and alpha times its weight, or 0 without a target, both (N,)."""
    classes = softmax.shape[1]
    if target.numel() and target.max() >= classes:
        raise ValueError(f"focal loss target {int(target.max())} is not among the {classes} classes")
    (softmax,) = full_precision(softmax)
    index = target.clamp(min=0)
    factor = alpha * (target >= 0).to(softmax.dtype)
    if weight.numel():
        factor = factor * weight.to(softmax.dtype)[index]
    return softmax.gather(1, index[:, None])[:, 0], factor


def _signed_logits(input: Tensor, target: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that grow with being right, their sign (+1 for the target class), and the factor alpha', all (N, K)."""
    classes = input.shape[1]
    if target.numel() and target.max() > classes:
        raise ValueError(f"focal loss target {int(target.max())} is larger than the number of classes, {classes}")
    (logits,) = full_precision(input)
    is_target = (target[:, None] == torch.arange(classes, device=input.device)).to(logits.dtype)
    sign = 2 * is_target - 1
    scale = alpha * is_target + (1 - alpha) * (1 - is_target)
    if weight.numel():
        background = weight.new_ones(1)
        scale = scale * torch.cat([weight, background]).to(logits.dtype)[target][:, None]
    return sign * logits, sign, scale
