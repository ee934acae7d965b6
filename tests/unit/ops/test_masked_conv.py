"""Convolution at chosen places against the ordinary one."""

from __future__ import annotations

import pytest
import torch
from mmcv.ops import MaskedConv2d
from torch.nn import functional


def image(dtype: torch.dtype, device: str) -> torch.Tensor:
    return torch.randn(1, 4, 5, 7, generator=torch.Generator().manual_seed(0)).to(device, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 1), ((3, 5), (1, 2)), (3, 2)])
def test_chosen_places_are_convolved_and_others_are_zero(
    kernel: int | tuple[int, int], padding: int | tuple[int, int], dtype: torch.dtype, device: str
) -> None:
    layer = MaskedConv2d(4, 6, kernel, padding=padding).to(device, dtype)
    chosen = torch.rand(1, 5, 7, generator=torch.Generator().manual_seed(1)).to(device) > 0.5
    with torch.no_grad():
        output = layer(image(dtype, device), chosen)
        everywhere = functional.conv2d(image(dtype, device), layer.weight, layer.bias, padding=padding)
    within = functional.pad(chosen, [0, output.shape[3] - 7, 0, output.shape[2] - 5])
    torch.testing.assert_close(output, everywhere * within)


def test_a_kernel_without_padding_sees_zeros_beyond_the_image(device: str) -> None:
    layer = MaskedConv2d(4, 6, 3).to(device).double()
    chosen = torch.zeros(1, 5, 7, device=device)
    chosen[0, 2, 4] = chosen[0, 0, 0] = 1
    with torch.no_grad():
        output = layer(image(torch.float64, device), chosen)
        everywhere = functional.conv2d(image(torch.float64, device), layer.weight, layer.bias)
    torch.testing.assert_close(output, everywhere * chosen[:, :3, :5])


def test_no_place_gives_zeros(device: str) -> None:
    layer = MaskedConv2d(4, 6, 3, padding=1).to(device)
    with torch.no_grad():
        output = layer(image(torch.float32, device), torch.zeros(1, 5, 7, device=device))
    assert output.shape == (1, 6, 5, 7) and not output.any()
