"""Multi-scale deformable attention against a loop over the formula, mmcv's form for CPUs, and finite differences."""

from __future__ import annotations

import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch
from torch import Tensor

SIZES = [(5, 7), (3, 4)]
BATCH, HEADS, CHANNELS, QUERIES, POINTS = 2, 3, 4, 6, 2


def inputs(device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points lie inside and up to a fifth of the map outside."""
    generator = torch.Generator().manual_seed(0)
    positions = sum(height * width for height, width in SIZES)
    value = torch.randn(BATCH, positions, HEADS, CHANNELS, generator=generator).double()
    locations = torch.rand(BATCH, QUERIES, HEADS, len(SIZES), POINTS, 2, generator=generator).double() * 1.4 - 0.2
    weights = torch.rand(BATCH, QUERIES, HEADS, len(SIZES), POINTS, generator=generator).double()
    return value.to(device), torch.tensor(SIZES, device=device), locations.to(device), weights.to(device)


def attend(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Through mmcv's wrapper, as on an accelerator."""
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    result: Tensor = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)
    return result


def bilinear(image: Tensor, x: float, y: float) -> Tensor:
    """(D, H, W) at a point in pixels, whose centres are at 0.5; zero outside."""
    height, width = image.shape[1:]
    total = torch.zeros(len(image), dtype=image.dtype)
    for row in range(height):
        for column in range(width):
            share = max(0, 1 - abs(y - row - 0.5)) * max(0, 1 - abs(x - column - 0.5))
            total += share * image[:, row, column]
    return total


def test_it_is_the_weighted_sum_of_what_lies_at_the_points() -> None:
    value, shapes, locations, weights = inputs("cpu")
    result = attend(value, shapes, locations, weights)
    assert result.shape == (BATCH, QUERIES, HEADS * CHANNELS)
    maps = value.split([height * width for height, width in SIZES], dim=1)
    for image, query, head in ((0, 0, 0), (1, 5, 2), (0, 3, 1)):
        expected = torch.zeros(CHANNELS).double()
        for level, (height, width) in enumerate(SIZES):
            picture = maps[level][image, :, head].T.reshape(CHANNELS, height, width)
            for (x, y), weight in zip(
                locations[image, query, head, level], weights[image, query, head, level], strict=True
            ):
                expected += weight * bilinear(picture, float(x) * width, float(y) * height)
        torch.testing.assert_close(result[image, query].view(HEADS, CHANNELS)[head], expected, rtol=1e-9, atol=1e-12)


def test_it_is_what_mmcv_computes_on_cpus(device: str) -> None:
    value, shapes, locations, weights = inputs(device)
    expected = multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
    torch.testing.assert_close(attend(value, shapes, locations, weights), expected)


def test_gradients_are_those_of_finite_differences(device: str) -> None:
    value, shapes, locations, weights = inputs(device)
    learnt = [one.requires_grad_() for one in (value, locations, weights)]
    torch.autograd.gradcheck(lambda a, b, c: attend(a, shapes, b, c), learnt, fast_mode=True, nondet_tol=1e-9)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_comes_back_as_such_and_is_computed_in_single(kind: torch.dtype, device: str) -> None:
    value, shapes, locations, weights = inputs(device)
    result = attend(value.to(kind), shapes, locations.to(kind), weights.to(kind))
    assert result.dtype == kind
    rounded = [one.to(kind).double() for one in (value, locations, weights)]
    exact = attend(rounded[0], shapes, rounded[1], rounded[2])
    torch.testing.assert_close(result.double(), exact, rtol=torch.finfo(kind).eps, atol=1e-6)
