"""CARAFE against a loop written from its definition, in its fast and its naive form."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from mmcv.ops import CARAFEPack, carafe, carafe_naive

from swin_dense.ops import OPS

KERNEL, GROUPS, SCALE = 3, 2, 2


def tensors(device: str = "cpu", batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (B, 4, 3, 5) and the kernel of each place of the map that is twice as large."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, 4, 3, 5, generator=generator).double()
    masks = torch.randn(batch, GROUPS * KERNEL**2, 3 * SCALE, 5 * SCALE, generator=generator).double()
    return features.to(device), masks.to(device)


def plain_carafe(features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    batch, channels, height, width = features.shape
    output = features.new_zeros(batch, channels, height * SCALE, width * SCALE)
    for b, c, y, x in product(*map(range, output.shape)):
        group = c // (channels // GROUPS)
        for i, j in product(range(KERNEL), repeat=2):
            row, column = y // SCALE + i - KERNEL // 2, x // SCALE + j - KERNEL // 2
            if 0 <= row < height and 0 <= column < width:
                weight = masks[b, (group * KERNEL + i) * KERNEL + j, y, x]
                output[b, c, y, x] += weight * features[b, c, row, column]
    return output


@pytest.mark.parametrize("op", [carafe, carafe_naive])
def test_each_place_sums_its_neighbours_with_its_own_kernel(op: Any, device: str) -> None:
    output = op(*tensors(device), KERNEL, GROUPS, SCALE)
    torch.testing.assert_close(output.cpu(), plain_carafe(*tensors()), rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_finite_differences(device: str) -> None:
    inputs = [one.requires_grad_() for one in tensors(device)]
    torch.autograd.gradcheck(lambda *one: carafe(*one, KERNEL, GROUPS, SCALE), inputs, nondet_tol=1e-10)


def test_the_naive_form_has_the_same_gradients() -> None:
    """mmcv's wrapper of it refuses the backward pass on CPUs, so that the op itself is called."""
    features, masks = (one.requires_grad_() for one in tensors())
    output = carafe(features, masks, KERNEL, GROUPS, SCALE)
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).double()
    expected = torch.autograd.grad(output, (features, masks), upstream)
    gradients = [torch.zeros_like(one) for one in (features, masks)]
    OPS["carafe_naive_backward"](
        upstream, features, masks, *gradients, kernel_size=KERNEL, group_size=GROUPS, scale_factor=SCALE
    )
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_result_alone(dtype: torch.dtype, device: str) -> None:
    features, masks = (one.to(dtype).requires_grad_() for one in tensors(device))
    output = carafe(features, masks, KERNEL, GROUPS, SCALE)
    expected = plain_carafe(features.detach().double().cpu(), masks.detach().double().cpu())
    torch.testing.assert_close(output.cpu(), expected.to(dtype))
    output.sum().backward()
    assert features.grad is not None and features.grad.dtype == dtype


def test_no_images_give_no_output(device: str) -> None:
    features, masks = (one.requires_grad_() for one in tensors(device, batch=0))
    output = carafe(features, masks, KERNEL, GROUPS, SCALE)
    output.sum().backward()
    assert output.shape == (0, 4, 6, 10) and features.grad is not None


def test_the_upsampling_layer_learns() -> None:
    layer = CARAFEPack(4, scale_factor=2)
    layer(torch.randn(1, 4, 3, 2)).square().sum().backward()
    assert all(one.grad is not None and one.grad.any() for one in layer.parameters())
