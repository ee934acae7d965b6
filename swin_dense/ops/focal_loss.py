"""Sigmoid focal loss, element by element (Lin et al. 2017, eq. 5).

With s = sigmoid(x) for the target class and s = sigmoid(-x) for all others, and alpha' = alpha or 1 - alpha likewise:

    loss = -alpha' * (1 - s)^gamma * log(s)

Signatures are those of mmcv's compiled ops, so that its autograd wrapper calls them unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.ops.kernels import full_precision


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the loss of every row and class.

    Args:
        input: (N, K) logits.
        target: (N,) int64 class of each row; K means background, a negative for every class.
        weight: (K,) factor of the rows of each class, or an empty tensor for none; background rows count 1.
        output: (N, K), overwritten.
        gamma: Focusing exponent.
        alpha: Weight of the target class; the others have 1 - alpha.

    Raises:
        ValueError: If a target is larger than K.
    """
    logits, _, scale = _signed_logits(input, target, weight, alpha)
    output.copy_(-scale * torch.sigmoid(-logits) ** gamma * functional.logsigmoid(logits))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the derivative of every element's loss by its logit.

    Args:
        input: (N, K) logits.
        target: (N,) int64 class of each row, see `sigmoid_focal_loss_forward`.
        weight: (K,) factor of the rows of each class, or an empty tensor for none.
        grad_input: (N, K), overwritten.
        gamma: Focusing exponent.
        alpha: Weight of the target class; the others have 1 - alpha.

    Raises:
        ValueError: If a target is larger than K.
    """
    logits, sign, scale = _signed_logits(input, target, weight, alpha)
    wrong, right = torch.sigmoid(-logits), torch.sigmoid(logits)
    derivative = wrong**gamma * (gamma * right * functional.logsigmoid(logits) - wrong)
    grad_input.copy_(sign * scale * derivative)


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
