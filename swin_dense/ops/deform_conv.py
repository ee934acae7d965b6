"""Deformable convolution, v1 (Dai et al. 2017) and modulated, v2 (Zhu et al. 2019).

    output[b, o, y, x] = bias[o] + sum over c, i, j of
        weight[o, c, i, j] * mask[b, g, i, j, y, x] * input[b, c, y', x']   with bilinear input, 0 outside the map,
    y' = y * stride - pad + i * dilation + offset[b, g, i, j, 0, y, x],  x' likewise with offset[..., 1, y, x]

where g is the deformable group of channel c; v1 has neither mask nor bias. mmcv and torchvision lay offsets and masks
out alike: channels are (group, i, j, (y, x)) and (group, i, j).

Signatures are those of mmcv's compiled ops, so that its autograd wrappers call them unchanged: forward functions
overwrite `output`, backward functions add to the gradient buffers. `columns`, `ones` (scratch
space) and `im2col_step` (images per step) concern the compiled ops alone and have no effect here.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.ops.kernels import full_precision, torchvision_kernels

# What torchvision takes in this order, under the names by which mmcv passes it.
GEOMETRY = ("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
MODULATED_GEOMETRY = (
    "stride_h",
    "stride_w",
    "pad_h",
    "pad_w",
    "dilation_h",
    "dilation_w",
    "group",
    "deformable_group",
)


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **geometry: int
) -> None:
    """Deformable convolution v1.

    Args:
        input: (B, C, H, W).
        weight: (O, C / group, kH, kW).
        offset: (B, deformable_group * kH * kW * 2, H', W'), in pixels.
        output: (B, O, H', W'), overwritten.
        columns: Unused.
        ones: Unused.
        **geometry: kW, kH, dW, dH (stride), padW, padH, dilationW, dilationH, group, deformable_group, im2col_step.
    """
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
    """Gradient of deformable convolution v1 by its input and offsets.

    Args:
        input: (B, C, H, W).
        offset: (B, deformable_group * kH * kW * 2, H', W'), in pixels.
        grad_output: (B, O, H', W').
        grad_input: Shape of `input`, added to.
        grad_offset: Shape of `offset`, added to.
        weight: (O, C / group, kH, kW).
        columns: Unused.
        **geometry: As in `deform_conv_forward`.
    """
    settings = [geometry[name] for name in GEOMETRY]
    tensors = full_precision(grad_output, input, weight, _numbers(offset))
    by_input, _, by_offset, _, _ = torchvision_kernels._deform_conv2d_backward(
        *tensors, *_no_mask_or_bias(input, tensors[2]), *settings, False
    )
    grad_input += by_input
    grad_offset += by_offset


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
    """Gradient of deformable convolution v1 by its weight.

    Args:
        input: (B, C, H, W).
        offset: (B, deformable_group * kH * kW * 2, H', W'), in pixels.
        grad_output: (B, O, H', W').
        grad_weight: (O, C / group, kH, kW), added to.
        columns: Unused.
        ones: Unused.
        scale: Factor of what is added.
        **geometry: As in `deform_conv_forward`.
    """
    # torchvision's backward kernel would work out all other gradients once more to give this one.
    grad_output, input, offset = full_precision(grad_output, input, offset)
    batch, groups = len(input), geometry["group"]
    columns = _sample_columns(input, offset, **geometry).view(batch, groups, -1, grad_output[0, 0].numel())
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
    """Modulated deformable convolution, v2.

    Args:
        input: (B, C, H, W).
        weight: (O, C / group, kernel_h, kernel_w).
        bias: (O,), not read without `with_bias`.
        ones: Unused.
        offset: (B, deformable_group * kernel_h * kernel_w * 2, H', W'), in pixels.
        mask: (B, deformable_group * kernel_h * kernel_w, H', W').
        output: (B, O, H', W'), overwritten.
        columns: Unused.
        with_bias: Whether to add the bias.
        **geometry: kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group,
            deformable_group.
    """
    settings = [geometry[name] for name in MODULATED_GEOMETRY]
    bias = bias if with_bias else weight.new_zeros(len(weight))
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
    """Gradients of modulated deformable convolution.

    Args:
        input: (B, C, H, W).
        weight: (O, C / group, kernel_h, kernel_w).
        bias: (O,), not read without `with_bias`.
        ones: Unused.
        offset: (B, deformable_group * kernel_h * kernel_w * 2, H', W'), in pixels.
        mask: (B, deformable_group * kernel_h * kernel_w, H', W').
        columns: Unused.
        grad_input: Shape of `input`, added to; so are the next four.
        grad_weight: Shape of `weight`.
        grad_bias: Shape of `bias`; untouched without `with_bias`.
        grad_offset: Shape of `offset`.
        grad_mask: Shape of `mask`.
        grad_output: (B, O, H', W').
        with_bias: Whether there is a bias.
        **geometry: As in `modulated_deform_conv_forward`.
    """
    settings = [geometry[name] for name in MODULATED_GEOMETRY]
    bias = bias if with_bias else weight.new_zeros(len(weight))
    tensors = full_precision(grad_output, input, weight, _numbers(offset), mask, bias)
    by_input, by_weight, by_offset, by_mask, by_bias = torchvision_kernels._deform_conv2d_backward(
        *tensors, *settings, True
    )
    grad_input += by_input
    grad_weight += by_weight
    grad_offset += by_offset
    grad_mask += by_mask
    if with_bias:
        grad_bias += by_bias


def _numbers(offset: Tensor) -> Tensor:
    """Offsets without NaN, at which torchvision's kernels would read memory that is not theirs, and crash."""
    return torch.nan_to_num(offset, nan=0.0, posinf=math.inf, neginf=-math.inf)


def _spread_not_a_number(offset: Tensor, output: Tensor) -> None:
    """Makes every output NaN that an offset of NaN had a part in, so that it is not taken for a result."""
    output.masked_fill_(offset.isnan().any(dim=1, keepdim=True), math.nan)


def _sample_columns(input: Tensor, offset: Tensor, **geometry: int) -> Tensor:
    """Samples the input at every deformed kernel position: (B, C, kH * kW, H' * W'), which convolution sums over."""
    arange = partial(torch.arange, device=offset.device)
    height, width = input.shape[-2:]
    out_height, out_width = offset.shape[-2:]
    tap_y, tap_x = torch.meshgrid(
        arange(geometry["kH"]) * geometry["dilationH"], arange(geometry["kW"]) * geometry["dilationW"], indexing="ij"
    )
    y = tap_y.reshape(-1, 1, 1) + arange(out_height)[:, None] * geometry["dH"] - geometry["padH"]
    x = tap_x.reshape(-1, 1, 1) + arange(out_width) * geometry["dW"] - geometry["padW"]
    offset = offset.reshape(len(input) * geometry["deformable_group"], -1, 2, out_height, out_width)
    y, x = y + offset[:, :, 0], x + offset[:, :, 1]
    # grid_sample's coordinates run from -1 at the left edge of the first pixel to 1 at the right edge of the last.
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    maps = input.reshape(len(grid), -1, height, width)
    sampled = functional.grid_sample(maps, grid.flatten(1, 2), align_corners=False)
    return sampled.view(*input.shape[:2], -1, out_height * out_width)


def _no_mask_or_bias(input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What torchvision's kernel wants in their place: a mask of the right batch size, and zeros."""
    return weight.new_zeros(len(input), 1), weight.new_zeros(len(weight))
