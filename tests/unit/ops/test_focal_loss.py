"""Sigmoid focal loss against equation 5 of the paper."""

from __future__ import annotations

import math

import pytest
import torch
from mmcv.ops import sigmoid_focal_loss


def focal_loss(logit: float, is_target: bool, gamma: float, alpha: float) -> float:
    probability = 1 / (1 + math.exp(-logit))
    right, balance = (probability, alpha) if is_target else (1 - probability, 1 - alpha)
    return -balance * (1 - right) ** gamma * math.log(right)


def random_logits(device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Six rows of three classes; the last two rows are background."""
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double().to(device) * 3
    return logits, torch.tensor([0, 1, 2, 1, 3, 3], device=device)


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("alpha", [0.25, 0.6])
def test_every_element_follows_the_formula(gamma: float, alpha: float, device: str) -> None:
    logits, target = random_logits(device)
    expected = [
        [focal_loss(logit, label == column, gamma, alpha) for column, logit in enumerate(row)]
        for row, label in zip(logits.tolist(), target.tolist(), strict=True)
    ]
    loss = sigmoid_focal_loss(logits, target, gamma, alpha, None, "none")
    torch.testing.assert_close(loss.cpu(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_class_weights_scale_the_rows_of_their_class_and_background_counts_one() -> None:
    logits, target = random_logits()
    weight = torch.tensor([2.0, 0.5, 3.0]).double()
    plain = sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "none")
    weighted = sigmoid_focal_loss(logits, target, 2.0, 0.25, weight, "none")
    torch.testing.assert_close(weighted, plain * torch.tensor([2, 0.5, 3, 0.5, 1, 1]).double()[:, None])


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_those_of_finite_differences(reduction: str, weighted: bool, device: str) -> None:
    logits, target = random_logits(device)
    weight = torch.tensor([2.0, 0.5, 3.0], device=device).double() if weighted else None
    logits.requires_grad_()
    torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, target, 2.0, 0.25, weight, reduction), logits)


def test_confident_logits_keep_a_finite_loss_and_gradient() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, "none")
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.tensor([[0.75 * 200, 0.25 * 200]]))
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[0.75, -0.25]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_result_alone(dtype: torch.dtype, device: str) -> None:
    logits, target = random_logits(device)
    half = logits.to(dtype).requires_grad_()
    full = half.detach().double().requires_grad_()
    with torch.autocast(device, dtype=dtype):
        loss = sigmoid_focal_loss(half, target, 2.0, 0.25, None, "none")
    expected = sigmoid_focal_loss(full, target, 2.0, 0.25, None, "none")
    torch.testing.assert_close(loss, expected.to(dtype))
    loss.sum().backward()
    expected.sum().backward()
    assert half.grad is not None and full.grad is not None
    torch.testing.assert_close(half.grad, full.grad.to(dtype))


def test_a_target_past_the_background_is_an_error() -> None:
    with pytest.raises(ValueError, match="target 3 is larger than the number of classes, 2"):
        sigmoid_focal_loss(torch.zeros(1, 2), torch.tensor([3]), 2.0, 0.25, None, "none")


def test_no_rows_give_no_loss() -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, "sum")
    loss.backward()
    assert loss == 0 and logits.grad is not None and logits.grad.shape == (0, 3)
