"""Attention by place against a loop written from its definition."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from mmcv.ops import PSAMask
from mmcv.ops.psa_mask import psa_mask

TYPES = {"collect": 0, "distribute": 1}
SHAPES = [((3, 5), (4, 6)), ((7, 11), (4, 6)), ((1, 1), (2, 3)), ((2, 4), (3, 3))]
"""Of the mask, which may be larger than the map, and of the map."""


def attention(mask: tuple[int, int], size: tuple[int, int], batch: int = 2, device: str = "cpu") -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, mask[0] * mask[1], *size, generator=generator).double().to(device)


def plain_psa_mask(values: torch.Tensor, mask: tuple[int, int], kind: str) -> torch.Tensor:
    batch, _, height, width = values.shape
    output = values.new_zeros(batch, height * width, height, width)
    for y, x, i, j in product(range(height), range(width), range(mask[0]), range(mask[1])):
        other_y, other_x = y + i - (mask[0] - 1) // 2, x + j - (mask[1] - 1) // 2
        if 0 <= other_y < height and 0 <= other_x < width:
            said = values[:, i * mask[1] + j, y, x]
            if kind == "collect":
                output[:, other_y * width + other_x, y, x] = said
            else:
                output[:, y * width + x, other_y, other_x] = said
    return output


@pytest.mark.parametrize(("mask", "size"), SHAPES)
@pytest.mark.parametrize("kind", TYPES)
def test_each_place_attends_to_those_around_it(
    kind: str, mask: tuple[int, int], size: tuple[int, int], device: str
) -> None:
    spread = psa_mask(attention(mask, size, device=device), TYPES[kind], mask)
    torch.testing.assert_close(spread.cpu(), plain_psa_mask(attention(mask, size), mask, kind), rtol=0, atol=0)


@pytest.mark.parametrize(("mask", "size"), SHAPES)
@pytest.mark.parametrize("kind", TYPES)
def test_gradients_are_those_of_finite_differences(kind: str, mask: tuple[int, int], size: tuple[int, int]) -> None:
    values = attention(mask, size, batch=1).requires_grad_()
    torch.autograd.gradcheck(lambda one: psa_mask(one, TYPES[kind], mask), values, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept(dtype: torch.dtype, device: str) -> None:
    values = attention((3, 3), (2, 2), device=device).to(dtype).requires_grad_()
    spread = PSAMask("collect", (3, 3))(values)
    spread.sum().backward()
    assert spread.dtype == dtype and values.grad is not None and values.grad.sum() == 2 * 16


def test_no_images_give_no_output() -> None:
    values = attention((3, 3), (2, 2), batch=0).requires_grad_()
    spread = PSAMask("distribute", (3, 3))(values)
    spread.sum().backward()
    assert spread.shape == (0, 4, 2, 2) and values.grad is not None
