"""Deformable convolution, v1 (Dai et al. 2017) and modulated, v2 (Zhu et al. 2019).

    output[b, o, y, x] = bias[o] + sum over c, i, j of
        weight[o, c, i, j] * mask[b, g, i, j, y, x] * input[b, c, y', x']   with bilinear input, 0 outside the map,
    y' = y * stride - pad + i * dilation + offset[b, g, i, j, 0, y, x],  x' likewise with offset[..., 1, y, x]

where g is the deformable group of channel c; v1 has neither mask nor bias. mmcv and torchvision lay offsets and masks
out alike: channels are (group, i, j, (y, x)) and (group, i, j).

Shapes: input (B, C, H, W), weight (O, C / group, kH, kW), offset (B, deformable_group * kH * kW * 2, H', W') in pixels,
mask (B, deformable_group * kH * kW, H', W'), output (B, O, H', W').
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.ops import full_precision, torchvision_kernels

# What torchvision takes in this order, under the names by which mmcv passes it.
GEOMETRY = ("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
MODULATED_GEOMETRY = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w", "group", "deformable_group")


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **geometry: int
) -> None:
    """Deformable convolution v1."""
    settings = [geometry[name] for name in GEOMETRY]
    input, weight, offset = full_precision(input, weight, offset)
    mask, bias = _no_mask_or_bias(input, weight)
    output.copy_(torchvision_kernels.deform_conv2d(input, weight, _numbers(offset), mask, bias, *settings, False))
    _spread_not_a_number(offset, output)


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """Gradients of deformable convolution v1 with respect to its input and offsets."""
    settings = [geometry[name] for name in GEOMETRY]
    grad_output, input, weight, offset = full_precision(grad_output, input, weight, _numbers(offset))
    by_input, _, by_offset, _, _ = torchvision_kernels._deform_conv2d_backward(
        grad_output, input, weight, offset, *_no_mask_or_bias(input, weight), *settings, False
    )
    grad_input += by_input
    grad_offset += _zero_outside(by_offset, offset, input, weight, settings)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **geometry: int,
) -> None:
    """Gradient of deformable convolution v1 with respect to its weight, times `scale`."""
    # torchvision's backward kernel would compute all other gradients a second time to give this one.
    grad_output, input, offset = full_precision(grad_output, input, offset)
    batch, groups = len(input), geometry["group"]
    columns = _sample_columns(input, offset, grad_weight, [geometry[name] for name in GEOMETRY])
    columns = columns.view(batch, groups, -1, grad_output[0, 0].numel())
    by_output = grad_output.reshape(batch, groups, -1, grad_output[0, 0].numel())
    by_weight = torch.einsum("bgop,bgkp->gok", by_output, columns)
    grad_weight += scale * by_weight.view_as(grad_weight)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Modulated deformable convolution, v2; offsets and masks may be larger than the output, see `_leading`."""
    settings = [geometry[name] for name in MODULATED_GEOMETRY]
    bias = bias if with_bias else weight.new_zeros(len(weight))
    offset, mask = _leading(offset, output), _leading(mask, output)
    input, weight, offset, mask, bias = full_precision(input, weight, offset, mask, bias)
    output.copy_(torchvision_kernels.deform_conv2d(input, weight, _numbers(offset), mask, bias, *settings, True))
    _spread_not_a_number(offset, output)


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Gradients of modulated deformable convolution; offsets and masks get theirs where the forward op read them."""
    settings = [geometry[name] for name in MODULATED_GEOMETRY]
    bias = bias if with_bias else weight.new_zeros(len(weight))
    offset, mask = _leading(offset, grad_output), _leading(mask, grad_output)
    tensors = full_precision(grad_output, input, weight, _numbers(offset), mask, bias)
    by_input, by_weight, by_offset, by_mask, by_bias = torchvision_kernels._deform_conv2d_backward(
        *tensors, *settings, True
    )
    grad_input += by_input
    grad_weight += by_weight
    by_offset = _zero_outside(by_offset, tensors[3], input, weight, settings)
    grad_offset += _from_leading(by_offset, grad_offset)
    grad_mask += _from_leading(by_mask, grad_mask)
    if with_bias:
        grad_bias += by_bias


def _leading(maps: Tensor, output: Tensor) -> Tensor:
    """The first c * H' * W' numbers of each image, as (B, c, H', W').

    mmcv's kernels address offsets and masks by the size of the output, so that maps of a larger size are read in
    another order. DyHead, which gives a level's offsets to the coarser level beside it, was trained that way.
    """
    channels, (height, width) = maps.shape[1], output.shape[-2:]
    if maps.shape[-2:] == (height, width) or maps[0].numel() < channels * height * width:
        return maps  # torchvision's own message names the sizes of maps that are too small
    return maps.flatten(1)[:, : channels * height * width].view(-1, channels, height, width)


def _from_leading(gradient: Tensor, maps: Tensor) -> Tensor:
    """The gradient of whole maps from that of their leading part; the rest has none."""
    if gradient.shape == maps.shape:
        return gradient
    rest = maps[0].numel() - gradient[0].numel()
    return functional.pad(gradient.flatten(1), (0, rest)).view(maps.shape)


def _numbers(offset: Tensor) -> Tensor:
    """Offsets without NaN, at which torchvision's kernels would read memory that is not theirs, and crash."""
    return torch.nan_to_num(offset, nan=0.0, posinf=math.inf, neginf=-math.inf)


def _spread_not_a_number(offset: Tensor, output: Tensor) -> None:
    """Sets every output to NaN that depends on an offset of NaN, so that it is not taken for a result."""
    output.masked_fill_(offset.isnan().any(dim=1, keepdim=True), math.nan)


def _zero_outside(gradient: Tensor, offset: Tensor, input: Tensor, weight: Tensor, settings: list[int]) -> Tensor:
    """The gradient of the offsets, zero where a sampling position is -1, or the map's size, or beyond, as mmcv has it.

    At -1 the input has just fallen to zero, and its slope depends on the side: torchvision takes the inner one. Offsets
    start at zero, so that a padded layer samples its whole top row and left column there.
    """
    y, x = _positions(offset, weight, settings)
    outside = (y <= -1) | (x <= -1) | (y >= input.shape[2]) | (x >= input.shape[3])
    return gradient.masked_fill(outside.unsqueeze(2).expand(-1, -1, 2, -1, -1).reshape(gradient.shape), 0.0)


def _positions(offset: Tensor, weight: Tensor, settings: list[int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of the input that are sampled, each (B * deformable_group, kH * kW, H', W')."""
    stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x, _, deformable_groups = settings
    arange = partial(torch.arange, device=offset.device)
    kernel_height, kernel_width = weight.shape[-2:]
    height, width = offset.shape[-2:]
    taps = torch.meshgrid(arange(kernel_height) * dilation_y, arange(kernel_width) * dilation_x, indexing="ij")
    y = taps[0].reshape(-1, 1, 1) + arange(height)[:, None] * stride_y - pad_y
    x = taps[1].reshape(-1, 1, 1) + arange(width) * stride_x - pad_x
    offset = offset.reshape(len(offset) * deformable_groups, -1, 2, height, width)
    return y + offset[:, :, 0], x + offset[:, :, 1]


def _sample_columns(input: Tensor, offset: Tensor, weight: Tensor, settings: list[int]) -> Tensor:
    """The input at every sampling position: (B, C, kH * kW, H' * W'), which convolution sums over."""
    height, width = input.shape[-2:]
    y, x = _positions(_numbers(offset), weight, settings)
    y, x = y.clamp(-2, height + 1), x.clamp(-2, width + 1)  # finite, and outside as before
    # grid_sample's coordinates run from -1 at the left edge of the first pixel to 1 at the right edge of the last.
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    maps = input.reshape(len(grid), -1, height, width)
    sampled = functional.grid_sample(maps, grid.flatten(1, 2), align_corners=False)
    return sampled.view(*input.shape[:2], -1, offset[0, 0].numel())


def _no_mask_or_bias(input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What torchvision's kernel wants in their place: a mask of the right batch size, and zeros."""
    return weight.new_zeros(len(input), 1), weight.new_zeros(len(weight))
