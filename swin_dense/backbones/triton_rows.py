"""What a Swin block does to each token by itself, in Triton: layer norm, and at inference norm and MLP in one.

`rows` says what is computed, and is the only place that imports this file: Triton is not everywhere. All kernels
see tokens as rows of C channels, a block of rows at a time, and sum in float32.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from swin_dense.backbones.triton_attention import _dot

BLOCK = 2048
"""Values of a block of rows in a layer norm."""

BACKWARD_PROGRAMS = 1024
"""Programs of its backward pass at most, each of which leaves a sum of gradients behind."""


class Launch(NamedTuple):
    """How the MLP is cut up for a GPU; the results are the same to rounding."""

    rows: int  # in a block
    hidden: int  # channels at a time
    warps: int
    stages: int


MLP_LAUNCH = Launch(rows=64, hidden=64, warps=4, stages=3)
"""The fastest of ten on an H100, for 96 and for 128 channels."""


def norm_forward(
    rows: Tensor, weight: Tensor, bias: Tensor, epsilon: float, dtype: torch.dtype, *, channels_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised rows (B, ..., C), or (B, C, ...), and mean and inverse standard deviation of each row."""
    batch, *grid, channels = rows.shape
    count = rows.numel() // channels
    output = rows.new_empty((batch, channels, *grid) if channels_first else rows.shape, dtype=dtype)
    means, scales = (rows.new_empty(count, dtype=torch.float32) for _ in range(2))
    block_rows, sizes = _sizes(channels, channels_first)
    with _on(rows):
        _norm[(triton.cdiv(count, block_rows),)](
            rows, weight, bias, output, means, scales, count, math.prod(grid), epsilon, **sizes
        )
    return output, means, scales


def norm_backward(
    gradient: Tensor, rows: Tensor, weight: Tensor, means: Tensor, scales: Tensor, *, channels_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of rows, weight and bias, for that of the output, whose order of dimensions it has."""
    *_, channels = rows.shape
    count = rows.numel() // channels
    rows_gradient = torch.empty_like(rows)
    block_rows, sizes = _sizes(channels, channels_first)
    per_program = triton.cdiv(triton.cdiv(count, block_rows), BACKWARD_PROGRAMS)
    programs = triton.cdiv(count, block_rows * per_program)
    parts = rows.new_empty(2, programs, channels, dtype=torch.float32)
    with _on(rows):
        _norm_backward[(programs,)](
            gradient, rows, weight, means, scales, rows_gradient, parts,
            count, math.prod(rows.shape[1:-1]), per_program, **sizes,
        )  # fmt: skip
    weight_gradient, bias_gradient = parts.sum(1).to(weight.dtype)
    return rows_gradient, weight_gradient, bias_gradient


def norm_and_mlp(
    rows: Tensor,
    branch: Tensor,
    norm: tuple[Tensor, Tensor, float],
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    launch: Launch = MLP_LAUNCH,
) -> Tensor:
    """What `rows.norm_and_mlp` computes, in the type of the rows; products are in that of the branch."""
    count, channels = rows.shape
    output = torch.empty_like(rows)
    first_weight, first_bias = first
    with _on(rows):
        _norm_and_mlp[(triton.cdiv(count, launch.rows),)](
            rows, branch, norm[0], norm[1], first_weight, first_bias, *second, output, count, norm[2],
            C=channels, CHANNELS=triton.next_power_of_2(channels), HIDDEN=len(first_bias),
            ROWS=launch.rows, BLOCK=launch.hidden, num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
    return output


def _sizes(channels: int, channels_first: bool) -> tuple[int, dict[str, Any]]:
    """Rows of a block of a layer norm, and the constants of its kernels."""
    block = triton.next_power_of_2(channels)
    # In a map the values of a channel lie side by side: 16 of them at least go to memory together.
    rows = max(16, 2 * BLOCK // block) if channels_first else max(1, BLOCK // block)
    sizes = {"C": channels, "CHANNELS": block, "ROWS": rows, "CHANNELS_FIRST": channels_first}
    return rows, {**sizes, "num_warps": 8 if channels_first else 4}


def _on(rows: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current GPU, wherever the tensors are."""
    return torch.cuda.device(rows.device) if rows.is_cuda else nullcontext()


# The number of rows changes with the image: a kernel must not be compiled again because it is a multiple of 16.
_kernel = triton.jit(do_not_specialize=["count", "length", "per_program", "epsilon"])


@triton.jit
def _places(row, channel, length, C: tl.constexpr, CHANNELS_FIRST: tl.constexpr):
    """Where the values of rows lie: with channels first, after those of the other channels of the image."""
    row, channel = row[:, None], channel[None, :]
    if CHANNELS_FIRST:
        places = (row // length * C + channel) * length + row % length
    else:
        places = row * C + channel
    return places


@_kernel
def _norm(
    rows, weight, bias, output, means, scales, count, length, epsilon,
    C: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, CHANNELS_FIRST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, CHANNELS)
    is_channel = channel < C
    mask = (row < count)[:, None] & is_channel[None, :]
    values = tl.load(rows + _places(row, channel, length, C, False), mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(values, 1) / C
    centred = tl.where(is_channel[None, :], values - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / C + epsilon)
    factor = tl.load(weight + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    offset = tl.load(bias + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    normalised = (centred * scale[:, None] * factor + offset).to(output.dtype.element_ty)
    tl.store(output + _places(row, channel, length, C, CHANNELS_FIRST), normalised, mask=mask)
    tl.store(means + row, mean, mask=row < count)
    tl.store(scales + row, scale, mask=row < count)


@_kernel
def _norm_backward(
    gradient, rows, weight, means, scales, rows_gradient, parts, count, length, per_program,
    C: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, CHANNELS_FIRST: tl.constexpr,
):  # fmt: skip
    channel = tl.arange(0, CHANNELS)
    is_channel = (channel < C)[None, :]
    factor = tl.load(weight + channel, mask=channel < C, other=0.0).to(tl.float32)[None, :]
    weight_gradient = tl.zeros([ROWS, CHANNELS], tl.float32)
    bias_gradient = tl.zeros([ROWS, CHANNELS], tl.float32)
    begin = tl.program_id(0).to(tl.int64) * per_program * ROWS
    for number in range(per_program):
        row = begin + number * ROWS + tl.arange(0, ROWS)
        mask = (row < count)[:, None] & is_channel
        places = _places(row, channel, length, C, False)
        arriving_places = _places(row, channel, length, C, CHANNELS_FIRST)
        mean = tl.load(means + row, mask=row < count, other=0.0)[:, None]
        scale = tl.load(scales + row, mask=row < count, other=0.0)[:, None]
        values = tl.load(rows + places, mask=mask, other=0.0).to(tl.float32)
        arriving = tl.load(gradient + arriving_places, mask=mask, other=0.0).to(tl.float32)
        normalised = tl.where(is_channel, (values - mean) * scale, 0.0)
        weight_gradient += arriving * normalised
        bias_gradient += arriving
        arriving *= factor
        along = tl.sum(arriving * normalised, 1)[:, None] / C
        found = (arriving - tl.sum(arriving, 1)[:, None] / C - normalised * along) * scale
        tl.store(rows_gradient + places, found.to(rows_gradient.dtype.element_ty), mask=mask)
    place = parts + tl.program_id(0).to(tl.int64) * C + channel
    tl.store(place, tl.sum(weight_gradient, 0), mask=channel < C)
    tl.store(place + tl.num_programs(0).to(tl.int64) * C, tl.sum(bias_gradient, 0), mask=channel < C)


@_kernel
def _norm_and_mlp(
    rows, branch, norm_weight, norm_bias, first_weight, first_bias, second_weight, second_bias, output, count, epsilon,
    C: tl.constexpr, CHANNELS: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, CHANNELS)
    is_channel = channel < C
    mask = (row < count)[:, None] & is_channel[None, :]
    places = _places(row, channel, 1, C, False)
    values = tl.load(rows + places, mask=mask, other=0.0).to(tl.float32)
    values += tl.load(branch + places, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(values, 1)[:, None] / C
    centred = tl.where(is_channel[None, :], values - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 1)[:, None] / C + epsilon)
    factor = tl.load(norm_weight + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    offset = tl.load(norm_bias + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    normalised = (centred * scale * factor + offset).to(branch.dtype.element_ty)
    # What is added at the end is read again then, instead of taking up registers meanwhile.
    mapped = tl.zeros([ROWS, CHANNELS], tl.float32)
    for begin in range(0, HIDDEN, BLOCK):
        hidden = begin + tl.arange(0, BLOCK)
        first = tl.load(first_weight + hidden[None, :] * C + channel[:, None], mask=is_channel[:, None], other=0.0)
        activation = _dot(normalised, first, "ieee")
        activation += tl.load(first_bias + hidden).to(tl.float32)[None, :]
        activation = 0.5 * activation * (1.0 + tl.erf(activation * 0.7071067811865476))
        second = tl.load(
            second_weight + channel[None, :] * HIDDEN + hidden[:, None], mask=is_channel[None, :], other=0.0
        )
        mapped += _dot(activation.to(branch.dtype.element_ty), second, "ieee")
    mapped += tl.load(second_bias + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    mapped += tl.load(rows + places, mask=mask, other=0.0).to(tl.float32)
    mapped += tl.load(branch + places, mask=mask, other=0.0).to(tl.float32)
    tl.store(output + places, mapped.to(output.dtype.element_ty), mask=mask)
