"""From a module to a graph: what is done to raw images, and what stays open."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from swin_dense.errors import ConfigError
from swin_dense.export.graph import TRACED_SIZE, load_program, trace, write_program
from swin_dense.export.models import PlainAdaptivePool, Preprocessing, RawImages


@pytest.mark.parametrize("cells", [(1, 1), (2, 2), (3, 3), (6, 6), (5, 2)])
@pytest.mark.parametrize("size", [(16, 16), (13, 7), (1, 9), (4, 5)])
def test_plain_adaptive_pool_is_adaptive_average_pooling(cells: tuple[int, int], size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(PlainAdaptivePool(cells)(maps), nn.AdaptiveAvgPool2d(cells)(maps))


def test_raw_images_are_normalised_then_swapped_then_padded_with_zeros() -> None:
    class Identity(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (images,)

    images = torch.tensor([10.0, 20.0, 40.0]).view(1, 3, 1, 1).expand(1, 3, 3, 5)
    preprocessing = Preprocessing((1.0, 2.0, 4.0), (3.0, 2.0, 9.0), bgr=True, divisor=4)
    (prepared,) = RawImages(Identity(), preprocessing)(images)
    assert prepared.shape == (1, 3, 4, 8)
    assert prepared[0, :, 0, 0].tolist() == [4.0, 9.0, 3.0]
    assert prepared[:, :, 3:].abs().sum() == prepared[:, :, :, 5:].abs().sum() == 0


class SizeInPython(nn.Module):
    """Its height and width are numbers in Python, so that a tracer must fix them."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (images.mean((2, 3)) * sum(range(int(images.shape[2] + images.shape[3]))),)


NO_CHANGE = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_what_cannot_stay_open_is_fixed_and_says_why() -> None:
    graph = trace(RawImages(SizeInPython(), NO_CHANGE).eval(), (6, 8))
    assert graph.open_axes == ("batch",)
    assert graph.shape[2:] == (6, 8)
    assert "Guard failed" in str(graph.why_fixed)
    images = torch.rand(5, 3, 6, 8)
    torch.testing.assert_close(graph.program.module()(images)[0], SizeInPython()(images)[0])


def test_a_program_in_a_file_has_a_small_example_of_its_inputs_and_refuses_others(tmp_path: Path) -> None:
    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (self.layer(images),)

    model = RawImages(Convolution(), NO_CHANGE).eval()
    for fixed, shape in ((False, (2, 3, *TRACED_SIZE)), (True, (1, 3, 6, 8))):
        graph = trace(model, (6, 8), fixed=fixed)
        write_program(graph, tmp_path / "program.pt2", {})
        assert (tmp_path / "program.pt2").stat().st_size < 200_000
        (example,), _ = torch.export.load(tmp_path / "program.pt2").example_inputs
        assert tuple(example.shape) == graph.shape == shape and not example.any()
        images = torch.rand(1, 3, 6, 8)
        program = load_program(tmp_path / "program.pt2")
        torch.testing.assert_close(program(images), model(images))
        with pytest.raises((AssertionError, RuntimeError, ValueError)):
            program(images[:, :2])
    with pytest.raises((AssertionError, RuntimeError)):
        program(torch.rand(2, 3, 6, 8))


def test_fixed_leaves_nothing_open_and_needs_no_reason() -> None:
    graph = trace(RawImages(SizeInPython(), NO_CHANGE).eval(), (6, 8), fixed=True)
    assert (graph.open_axes, graph.shape, graph.why_fixed) == ((), (1, 3, 6, 8), None)


def test_what_cannot_be_traced_is_refused_with_the_reason() -> None:
    class Reads(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (images[: int(images.sum().item())].new_zeros(int(images.sum().item()), 2).view(7, -1),)

    with pytest.raises(ConfigError, match="cannot be traced"):
        trace(RawImages(Reads(), NO_CHANGE).eval(), (6, 8), fixed=True)
