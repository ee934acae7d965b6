"""Focal loss, with sigmoid and softmax, against equation 5 of the paper."""

from __future__ import annotations

import math

import pytest
import torch
from mmcv.ops import sigmoid_focal_loss, softmax_focal_loss


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


SOFTMAX_TARGET = torch.tensor([0, 1, 2, 1, -1, 0])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_softmax_rows_follow_the_formula(gamma: float, weighted: bool, device: str) -> None:
    logits, _ = random_logits(device)
    weight = torch.tensor([2.0, 0.5, 3.0], device=device).double()
    expected = []
    for row, label in zip(logits.tolist(), SOFTMAX_TARGET.tolist(), strict=True):
        chance = math.exp(row[label]) / sum(map(math.exp, row))
        loss = -0.25 * (1 - chance) ** gamma * math.log(chance) if label >= 0 else 0.0
        expected.append(loss * weight[label].item() if weighted else loss)
    loss = softmax_focal_loss(logits, SOFTMAX_TARGET.to(device), gamma, 0.25, weight if weighted else None, "none")
    torch.testing.assert_close(loss.cpu(), torch.tensor(expected).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_softmax_gradients_are_those_of_finite_differences(gamma: float, reduction: str, device: str) -> None:
    logits, _ = random_logits(device)
    weight, target = torch.tensor([2.0, 0.5, 3.0], device=device).double(), SOFTMAX_TARGET.to(device)
    torch.autograd.gradcheck(
        lambda x: softmax_focal_loss(x, target, gamma, 0.25, weight, reduction), logits.requires_grad_()
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_confident_softmax_keeps_a_finite_loss_and_gradient(gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = softmax_focal_loss(logits, torch.tensor([0, 0]), gamma, 0.25, None, "sum")
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()
    assert not logits.grad[0].any() and logits.grad[1, 0] < 0


def test_a_softmax_target_that_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="target 3 is not among the 3 classes"):
        softmax_focal_loss(torch.zeros(1, 3), torch.tensor([3]), 2.0, 0.25)


def test_no_softmax_rows_have_no_loss(device: str) -> None:
    logits = torch.zeros(0, 3, device=device, requires_grad=True)
    loss = softmax_focal_loss(logits, torch.zeros(0, dtype=torch.long, device=device), 2.0, 0.25, None, "sum")
    loss.backward()
    assert loss == 0 and logits.grad is not None
