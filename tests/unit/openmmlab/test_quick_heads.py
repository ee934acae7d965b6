"""Enlarging maps by products: PyTorch's values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.config import load_config
from swin_dense.openmmlab import quick_heads
from swin_dense.openmmlab.quick_heads import QuickHeads, enlarge
from swin_dense.openmmlab.segmentation import OpenMMLabSegmenter
from swin_dense.records import Batch


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(28, 52), (9, 40), (7, 13), (3, 5), (1, 1)])
def test_gradients_are_those_of_interpolate(size: tuple[int, int], align_corners: bool) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 7, 13, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(2, 3, *size, dtype=torch.float64)

    expected = functional.interpolate(maps, size, mode="bilinear", align_corners=align_corners)
    found = enlarge(maps, size, align_corners)

    assert torch.equal(found, expected)
    pair = (torch.autograd.grad(one, maps, gradient)[0] for one in (found, expected))
    torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-12)


def test_gradients_in_half_precision_are_summed_in_float32() -> None:
    torch.manual_seed(0)
    maps = torch.randn(1, 2, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn(1, 2, 64, 64, dtype=torch.bfloat16)

    (found,) = torch.autograd.grad(enlarge(maps, (64, 64)), maps, gradient)

    exact = maps.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(enlarge(exact, (64, 64)), exact, gradient.double())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("call", ["bilinear", "one side", "smoothed", "nearest", "best", "two best"])
def test_functions_within_give_what_they_give_outside(call: str) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 5, 6, 6)
    calls: dict[str, Any] = {
        "bilinear": lambda: (functional.interpolate(maps, size=(9, 9), mode="bilinear", align_corners=False),),
        "one side": lambda: (functional.interpolate(maps, 9, None, "bilinear", False),),
        "smoothed": lambda: (functional.interpolate(maps, size=(3, 3), mode="bilinear", antialias=True),),
        "nearest": lambda: (functional.interpolate(maps, scale_factor=2.0, mode="nearest"),),
        "best": lambda: maps.topk(1, dim=1),
        "two best": lambda: maps.topk(2, dim=1),
    }
    expected: tuple[Tensor, ...] = calls[call]()
    with QuickHeads():
        found = calls[call]()
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_a_segmenter_learns_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def watched(maps: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
        sizes.append(size)
        return enlarge(maps, size, align_corners)

    monkeypatch.setattr(quick_heads, "enlarge", watched)
    config = load_config("demo/upernet_swin-nano_shapes")
    segmenter = OpenMMLabSegmenter(config.model, 3)
    side = config.model["data_preprocessor"]["size"][0]
    batch = Batch(
        images=torch.zeros(2, 3, side, side, dtype=torch.uint8),
        sizes=((side, side),) * 2,
        original_sizes=((side, side),) * 2,
        image_ids=(1, 2),
        file_names=("1.jpg", "2.jpg"),
        label_maps=(torch.zeros(side, side, dtype=torch.int32),) * 2,
    )

    segmenter.losses(batch)

    assert sizes.count((side, side)) == 1 + ("auxiliary_head" in config.model)
