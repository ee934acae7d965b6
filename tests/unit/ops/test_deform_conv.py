"""Deformable convolution against loops written from its definition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from mmcv.ops import DeformConv2d, deform_conv2d, modulated_deform_conv2d
from torch.nn import functional


@dataclass(frozen=True)
class Geometry:
    """Everything that mmcv's functions take beside tensors, with (y, x) pairs."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    deform_groups: int = 1

    def arguments(self) -> tuple[object, ...]:
        return self.stride, self.padding, self.dilation, self.groups, self.deform_groups


GEOMETRIES = [
    Geometry(),
    Geometry(stride=(2, 1), padding=(2, 1), dilation=(1, 2)),
    Geometry(groups=2, deform_groups=1),
    Geometry(groups=1, deform_groups=2),
    Geometry(stride=(1, 2), padding=(0, 3), groups=2, deform_groups=4),
]
KERNEL = (3, 2)
IN_CHANNELS, OUT_CHANNELS = 4, 6


def tensors(geometry: Geometry, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    """Input, offset, mask, weight and bias; offsets reach past every border of the map."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).double().to(device)

    image = normal(2, IN_CHANNELS, 5, 6)
    out_size = [
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, padding, dilation, kernel, stride in zip(
            image.shape[2:], geometry.padding, geometry.dilation, KERNEL, geometry.stride, strict=True
        )
    ]
    taps = geometry.deform_groups * math.prod(KERNEL)
    weight = normal(OUT_CHANNELS, IN_CHANNELS // geometry.groups, *KERNEL)
    return image, normal(2, taps * 2, *out_size) * 2, normal(2, taps, *out_size), weight, normal(OUT_CHANNELS)


def bilinear(plane: torch.Tensor, y: float, x: float) -> float:
    """Value of an (H, W) map at (y, x), with zeros all around it."""
    top, left = math.floor(y), math.floor(x)
    total = 0.0
    for row, column in product((top, top + 1), (left, left + 1)):
        if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
            total += float(plane[row, column]) * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def plain_deform_conv(
    image: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, geometry: Geometry
) -> torch.Tensor:
    taps = list(product(range(KERNEL[0]), range(KERNEL[1])))
    output = image.new_zeros(len(image), OUT_CHANNELS, *offset.shape[-2:])
    in_per_group, out_per_group = IN_CHANNELS // geometry.groups, OUT_CHANNELS // geometry.groups
    for b, c, y, x in product(range(len(image)), range(IN_CHANNELS), *map(range, offset.shape[-2:])):
        deform_group = c // (IN_CHANNELS // geometry.deform_groups)
        group = c // in_per_group
        for tap, (i, j) in enumerate(taps):
            channel = deform_group * len(taps) + tap
            shift_y, shift_x = offset[b, 2 * channel, y, x].item(), offset[b, 2 * channel + 1, y, x].item()
            position_y = y * geometry.stride[0] - geometry.padding[0] + i * geometry.dilation[0] + shift_y
            position_x = x * geometry.stride[1] - geometry.padding[1] + j * geometry.dilation[1] + shift_x
            value = bilinear(image[b, c], position_y, position_x) * mask[b, channel, y, x]
            filters = slice(group * out_per_group, (group + 1) * out_per_group)
            output[b, filters, y, x] += weight[filters, c % in_per_group, i, j] * value
    return output


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_deform_conv_sums_bilinear_samples(geometry: Geometry, device: str) -> None:
    image, offset, mask, weight, _ = tensors(geometry)
    expected = plain_deform_conv(image, offset, torch.ones_like(mask), weight, geometry)
    output = deform_conv2d(*(tensor.to(device) for tensor in (image, offset, weight)), *geometry.arguments())
    torch.testing.assert_close(output.cpu(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_modulated_deform_conv_weighs_every_sample(geometry: Geometry, with_bias: bool, device: str) -> None:
    image, offset, mask, weight, bias = tensors(geometry)
    expected = plain_deform_conv(image, offset, mask, weight, geometry)
    if with_bias:
        expected += bias[:, None, None]
    image, offset, mask, weight, bias = tensors(geometry, device)
    output = modulated_deform_conv2d(image, offset, mask, weight, bias if with_bias else None, *geometry.arguments())
    torch.testing.assert_close(output.cpu(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_without_offsets_it_is_an_ordinary_convolution(version: str, device: str) -> None:
    geometry = Geometry(stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=2)
    image, offset, mask, weight, _ = (tensor.float() for tensor in tensors(geometry, device))
    offset, mask = torch.zeros_like(offset), torch.ones_like(mask)
    if version == "v1":
        output = deform_conv2d(image, offset, weight, *geometry.arguments())
    else:
        output = modulated_deform_conv2d(image, offset, mask, weight, None, *geometry.arguments())
    expected = functional.conv2d(image, weight, None, geometry.stride, geometry.padding, geometry.dilation, 2)
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_deform_conv_gradients_are_those_of_finite_differences(geometry: Geometry, device: str) -> None:
    image, offset, _, weight, _ = (tensor.requires_grad_() for tensor in tensors(geometry, device))
    torch.autograd.gradcheck(
        lambda *inputs: deform_conv2d(*inputs, *geometry.arguments()),
        (image, offset, weight),
        nondet_tol=1e-10,
        fast_mode=True,
    )


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_modulated_deform_conv_gradients_are_those_of_finite_differences(
    geometry: Geometry, with_bias: bool, device: str
) -> None:
    image, offset, mask, weight, bias = (tensor.requires_grad_() for tensor in tensors(geometry, device))
    torch.autograd.gradcheck(
        lambda *inputs: modulated_deform_conv2d(*inputs, *geometry.arguments()),
        (image, offset, mask, weight, bias if with_bias else None),
        nondet_tol=1e-10,
        fast_mode=True,
    )


def test_the_two_versions_have_the_same_weight_gradient() -> None:
    """Version 1 samples for it in its own way, which must hold entry by entry."""
    geometry = GEOMETRIES[-1]
    image, offset, mask, weight, _ = tensors(geometry)
    weight.requires_grad_()
    first = deform_conv2d(image, offset, weight, *geometry.arguments())
    second = modulated_deform_conv2d(image, offset, torch.ones_like(mask), weight, None, *geometry.arguments())
    upstream = torch.randn(first.shape, generator=torch.Generator().manual_seed(1)).double()
    (from_first,) = torch.autograd.grad(first, weight, upstream)
    (from_second,) = torch.autograd.grad(second, weight, upstream)
    torch.testing.assert_close(from_first, from_second, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_half_precision_offsets_make_a_half_precision_result(version: str, dtype: torch.dtype, device: str) -> None:
    """As under autocast, where a convolution predicts the offsets in half precision and the weights stay in float32."""
    geometry = Geometry()
    image, offset, mask, weight, bias = (tensor.float() for tensor in tensors(geometry, device))
    image, offset, mask = (tensor.to(dtype) for tensor in (image, offset, mask))
    weight.requires_grad_()

    def convolve(*inputs: torch.Tensor) -> torch.Tensor:
        image, offset, mask, weight, bias = inputs
        if version == "v1":
            return deform_conv2d(image, offset, weight, *geometry.arguments())
        return modulated_deform_conv2d(image, offset, mask, weight, bias, *geometry.arguments())

    with torch.autocast(device, dtype=dtype):
        output = convolve(image, offset, mask, weight, bias)
    exact = [tensor.detach().to(dtype).double() for tensor in (image, offset, mask, weight, bias)]
    exact[3].requires_grad_()
    expected = convolve(*exact)
    assert output.dtype == dtype
    torch.testing.assert_close(output, expected.to(dtype))
    output.sum().backward()
    expected.sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32 and exact[3].grad is not None
    torch.testing.assert_close(weight.grad, exact[3].grad.to(dtype).float())


def test_images_smaller_than_the_kernel_pass_through_the_layer() -> None:
    layer = DeformConv2d(2, 3, kernel_size=3, padding=1)
    output = layer(torch.randn(1, 2, 1, 2), torch.zeros(1, 18, 1, 2))
    assert output.shape == (1, 3, 1, 2)


@pytest.mark.parametrize("version", ["plain", "modulated"])
def test_an_offset_that_is_no_number_spoils_its_own_output_alone(version: str, device: str) -> None:
    image, offset, mask, weight, _ = (one.requires_grad_() for one in tensors(Geometry(), device))
    broken = offset.detach().clone()
    broken[1, 3, 2, 1], broken[0, 0, 0, 0] = math.nan, math.inf
    broken.requires_grad_()

    def convolved(places: torch.Tensor) -> torch.Tensor:
        if version == "plain":
            return deform_conv2d(image, places, weight, *Geometry().arguments())
        return modulated_deform_conv2d(image, places, mask, weight, None, *Geometry().arguments())

    output = convolved(broken)
    spoilt = output.isnan()
    assert spoilt[1, :, 2, 1].all() and spoilt.sum() == OUT_CHANNELS
    output[~spoilt].sum().backward()
    assert all(one.grad is None or one.grad.isfinite().all() for one in (image, broken, mask, weight))
    torch.testing.assert_close(output[1][~spoilt[1]], convolved(offset)[1][~spoilt[1]])


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_position_of_exactly_minus_one_gives_its_offset_no_gradient(version: str, device: str) -> None:
    """As in mmcv: a padded layer starts with zero offsets, and samples its top row and left column there."""
    image, offset, mask, weight, _ = tensors(Geometry(), device)
    offset = torch.zeros_like(offset).requires_grad_()
    if version == "v1":
        output = deform_conv2d(image, offset, weight, *Geometry().arguments())
    else:
        output = modulated_deform_conv2d(image, offset, mask, weight, None, *Geometry().arguments())
    output.sum().backward()
    assert offset.grad is not None
    gradient = offset.grad.view(len(image), *KERNEL, 2, *output.shape[-2:])
    outside = torch.zeros_like(gradient, dtype=torch.bool)
    outside[:, 0, :, :, 0] = outside[:, :, 0, :, :, 0] = True  # at -1
    outside[:, -1, :, :, -1] = outside[:, :, -1, :, :, -1] = True  # at the height and width
    assert not gradient[outside].any() and gradient[~outside].all()


def test_maps_larger_than_the_output_are_read_from_their_start(device: str) -> None:
    """As mmcv's kernels do, on which DyHead relies: the output's size alone says where a number lies."""
    image, offset, mask, weight, bias = tensors(Geometry(), device)
    generator = torch.Generator().manual_seed(3)
    large = [torch.randn(2, one.shape[1], 9, 11, generator=generator).double().to(device) for one in (offset, mask)]
    for one, exact in zip(large, (offset, mask), strict=True):
        one.flatten(1)[:, : exact[0].numel()] = exact.flatten(1)
    expected = [one.requires_grad_() for one in (image, offset, mask, weight, bias)]
    given = [one.detach().clone().requires_grad_() for one in (image, *large, weight, bias)]
    outputs = [modulated_deform_conv2d(*one, *Geometry().arguments()) for one in (expected, given)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=0)
    for output in outputs:
        (output * torch.arange(output.numel(), device=device).view_as(output)).sum().backward()
    for name, one, other in zip(("image", "offset", "mask", "weight", "bias"), expected, given, strict=True):
        assert one.grad is not None and other.grad is not None
        read = other.grad.flatten(1)[:, : one[0].numel()] if name in ("offset", "mask") else other.grad
        torch.testing.assert_close(read.reshape(one.shape), one.grad, rtol=1e-12, atol=1e-12)
        assert other.grad.count_nonzero() == one.grad.count_nonzero(), "the rest of the maps has no gradient"


@pytest.mark.parametrize("height", [5, 9])
def test_maps_of_another_memory_format_get_the_same_gradients(height: int) -> None:
    image, offset, mask, weight, _ = tensors(Geometry())
    maps = [functional.pad(one, [0, 0, 0, height - 5], value=0.5) for one in (offset, mask)]
    gradients = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        inputs = [one.clone(memory_format=memory_format).requires_grad_() for one in maps]
        output = modulated_deform_conv2d(image, *inputs, weight, None, *Geometry().arguments())
        gradients.append(torch.autograd.grad(output.square().sum(), inputs))
    for one, other in zip(*gradients, strict=True):
        assert one.any()
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize("short", [1, 2])
def test_maps_smaller_than_the_output_are_refused(short: int) -> None:
    inputs = list(tensors(Geometry()))
    inputs[short] = inputs[short][..., :-1]
    with pytest.raises(RuntimeError, match="(offset|mask) output dims"):
        modulated_deform_conv2d(*inputs, *Geometry().arguments())
