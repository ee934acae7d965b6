"""Resizing one axis at a time, judged by PyTorch's own interpolation in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from swin_dense.inference.segmentation import BilinearAxis, MosaicAxis

lengths = st.integers(1, 40)


def interpolated(values: Tensor, target: int, align_corners: bool) -> Tensor:
    """A (..., length) tensor resized along its last axis."""
    flat = values.double().reshape(1, -1, values.shape[-1])
    return functional.interpolate(flat, size=target, mode="linear", align_corners=align_corners).reshape(
        *values.shape[:-1], target
    )


@given(source=lengths, target=lengths, align_corners=st.booleans(), data=st.data())
def test_any_part_of_a_resized_axis_is_what_interpolation_gives(
    source: int, target: int, align_corners: bool, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, target - 1))
    stop = data.draw(st.integers(start + 1, target))
    values = torch.randn(3, source, dtype=torch.float64)
    axis = BilinearAxis.between(source, target, align_corners)
    first, last = axis.sources(start, stop)
    found = axis.pixels(values[:, first:last], 1, start, stop, first)
    torch.testing.assert_close(found, interpolated(values, target, align_corners)[:, start:stop], rtol=0, atol=1e-12)


def test_far_pixels_are_as_exact_as_near_ones() -> None:
    """PyTorch computes source positions in float32, and is off by hundreds of times as much."""
    values = torch.randn(1, 1, 1000, generator=torch.Generator().manual_seed(0))
    exact = interpolated(values, 3999, align_corners=False)
    ours = BilinearAxis.between(1000, 3999, align_corners=False).pixels(values, 2, 0, 3999)
    theirs = functional.interpolate(values, size=3999, mode="linear")
    assert (ours - exact).abs().max() < 5e-7 < 1e-4 < (theirs - exact).abs().max()


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_the_axis_may_be_any_dimension(dim: int) -> None:
    values = torch.randn(5, 5, 5, dtype=torch.float64)
    found = BilinearAxis.between(5, 9, align_corners=True).pixels(values, dim, 0, 9)
    expected = interpolated(values.movedim(dim, -1), 9, align_corners=True).movedim(-1, dim)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("starts", [(0, 3, 4), (4, 1, 0)], ids=["ascending", "mirrored"])
def test_pixels_of_several_crops_are_averaged_before_the_whole_is_resized(starts: tuple[int, ...]) -> None:
    parts = {start: torch.randn(2, 3, dtype=torch.float64) for start in starts}  # 3 numbers for 6 pixels
    total, count = torch.zeros(2, 10, dtype=torch.float64), torch.zeros(10, dtype=torch.float64)
    for start, part in parts.items():
        total[:, start : start + 6] += interpolated(part, 6, align_corners=False)
        count[start : start + 6] += 1
    expected = interpolated(total / count, 25, align_corners=False)
    axis = MosaicAxis(starts, BilinearAxis.between(3, 6, False), BilinearAxis.between(10, 25, False))
    for start, stop in ((0, 25), (0, 1), (7, 12), (20, 25)):
        needed = {begin: parts[begin] for begin in axis.crops(start, stop)}
        found = axis.assemble(needed, 1, start, stop)
        torch.testing.assert_close(found, expected[:, start:stop], rtol=0, atol=1e-12)
    assert axis.crops(0, 1) == [0] and set(axis.crops(24, 25)) == {start for start in starts if start + 6 > 9}
