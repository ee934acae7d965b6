"""How far an exported model is from the one it was made of."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from swin_dense.export.deploy import deviations


def reference(images: Tensor) -> tuple[Tensor, Tensor]:
    return images * 2, images.mean((2, 3))


def test_names_each_output_on_each_batch_with_its_largest_difference() -> None:
    def off(images: Tensor) -> tuple[Tensor, Tensor]:
        one, two = reference(images)
        one = one.clone()
        one[0, 1, 2, 3] += 0.5
        return one, two

    batches = [torch.full((1, 3, 4, 5), 2.0), torch.full((2, 3, 6, 7), 8.0)]
    rows = deviations(reference, off, batches, ["a", "b"])
    assert [(row.shape, row.output) for row in rows] == [
        ((1, 3, 4, 5), "a"),
        ((1, 3, 4, 5), "b"),
        ((2, 3, 6, 7), "a"),
        ((2, 3, 6, 7), "b"),
    ]
    assert [row.absolute for row in rows] == [0.5, 0.0, 0.5, 0.0]
    assert [row.relative for row in rows] == [pytest.approx(0.5 / 4), 0.0, pytest.approx(0.5 / 16), 0.0]


@pytest.mark.parametrize("broken", [lambda a: a[..., :-1], lambda a: a * float("nan")])
def test_a_wrong_shape_or_nan_is_infinitely_far(broken: object) -> None:
    def exported(images: Tensor) -> tuple[Tensor, Tensor]:
        one, two = reference(images)
        return broken(one), two

    first, second = deviations(reference, exported, [torch.ones(1, 3, 4, 4)], ["a", "b"])
    assert math.isinf(first.absolute) and math.isinf(first.relative)
    assert second.relative == 0.0
