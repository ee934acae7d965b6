"""CARAFE (Wang et al. 2019, equation 2): upsampling by kernels that the network predicts for every place.

    output[b, c, y, x] = sum over i, j of
        masks[b, (g * k + i) * k + j, y, x] * features[b, c, y // s + i - k // 2, x // s + j - k // 2]

with features zero outside the map, g the group of channel c, and s the scale factor. Shapes: features (B, C, H, W),
masks (B, groups * k * k, H * s, W * s), output (B, C, H * s, W * s).

The fast form of mmcv's ops differs from the naive one in the layout of scratch space alone, whose names begin with r;
here only `rfeatures`, which the wrapper keeps for the backward pass, has a use.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from types import EllipsisType

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.ops import full_precision


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Upsamples features."""
    features, masks = full_precision(features, masks)
    padded, by_tap = _padded(features, kernel_size, group_size), _by_cell(masks.contiguous(), group_size, scale_factor)
    total = features.new_zeros(output.shape)
    cells = _by_cell(total, group_size, scale_factor)
    for tap, window in enumerate(_windows(features, kernel_size)):
        cells.addcmul_(padded[window][..., :, None, :, None], by_tap[:, :, tap, None])
    output.copy_(total)


def carafe_naive_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Gradients with respect to the features and the kernels."""
    grad_output, features, masks = full_precision(grad_output, features, masks)
    padded, by_tap = _padded(features, kernel_size, group_size), _by_cell(masks.contiguous(), group_size, scale_factor)
    upstream = _by_cell(grad_output.contiguous(), group_size, scale_factor)
    by_padded, by_masks = torch.zeros_like(padded), []
    for tap, window in enumerate(_windows(features, kernel_size)):
        by_padded[window] += (upstream * by_tap[:, :, tap, None]).sum(dim=(4, 6))
        by_masks.append((upstream * padded[window][..., :, None, :, None]).sum(dim=2))
    border = kernel_size // 2
    grad_input += functional.pad(by_padded.flatten(1, 2), [-border] * 4)
    grad_masks += torch.stack(by_masks, dim=2).reshape(masks.shape)


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Upsamples features, and keeps them in `rfeatures`."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rgrad_output: Tensor,
    rgrad_input_hs: Tensor,
    rgrad_input: Tensor,
    rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Gradients with respect to the features, which `rfeatures` holds, and the kernels."""
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input, grad_masks, kernel_size, group_size, scale_factor)


def _by_cell(maps: Tensor, groups: int, scale: int) -> Tensor:
    """A view of large maps (B, C, H * s, W * s) as (B, groups, C / groups, H, s, W, s)."""
    batch, channels, height, width = maps.shape
    return maps.view(batch, groups, channels // groups, height // scale, scale, width // scale, scale)


def _padded(features: Tensor, kernel: int, groups: int) -> Tensor:
    """Features with the zeros around them that the kernel sees: (B, groups, C / groups, H + k - 1, W + k - 1)."""
    padded = functional.pad(features, [kernel // 2] * 4).contiguous()
    return padded.view(len(padded), groups, padded.shape[1] // groups, *padded.shape[2:])


def _windows(features: Tensor, kernel: int) -> Iterator[tuple[EllipsisType, slice, slice]]:
    """What each tap of the kernel sees of the padded features."""
    height, width = features.shape[2:]
    for i, j in product(range(kernel), repeat=2):
        yield ..., slice(i, i + height), slice(j, j + width)
