"""Window attention in Triton, forward and backward, on grids of tokens that stay as they are.

`gridded_attention` says what is computed, and is the only place that imports this file: Triton is not everywhere.

A program takes one head, one block of queries and a run of windows, one after another. Where the tokens of a window lie
follows from the window's number, so no shifted, cut or padded copy of the grid is made, and no index of one. Windows of
up to 64 tokens are one block of queries and keys, whose bias stays in registers from window to window, as its gradient
does. In larger ones the forward pass goes through blocks of keys (FlashAttention, arXiv 2205.14135, algorithm 1), and
the backward pass has a program for each pair of blocks. Each token lies in one window, so gradients of tokens need no
atomics; what is a sum over programs is kept for each of them and added up afterwards, in the same order every time.

Scores are in units of log2, since the hardware has exp2 alone. Blocks are powers of two, which Triton demands: keys
beyond a window have a bias of -inf, queries beyond it, and those that are padding, a log-sum-exp of +inf.

Shapes: B images, a grid of (H, W) tokens, N tokens in a window, C channels = heads x D. A row is a token's place in the
grid of its image, counted in raster order, -1 for padding and for what is beyond the window.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from swin_dense.backbones.windows import MASKED

LOG2E = tl.constexpr(math.log2(math.e))
MASKED_LOG2 = tl.constexpr(MASKED * math.log2(math.e))
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
"""Whether kernels run on the CPU, for tests, where a product of bfloat16 would be one of their bits, as integers."""

SMALLEST_BLOCK = 16
"""The smallest side of a matrix product in Triton."""

LARGEST_BLOCK = 64
"""Queries of a block, 16 for each warp, and in the backward pass keys: more would not fit into registers."""

PROGRAMS = 2048
"""Programs wanted at least, several for each multiprocessor, before one takes several windows."""


class Launch(NamedTuple):
    """How a kernel is cut up for a GPU; the results are the same to rounding."""

    warps: int
    stages: int
    windows: int  # that a program takes one after another, at most
    keys: int = LARGEST_BLOCK  # in a block, at most


def forward_launch(length: int, dtype: torch.dtype) -> Launch:
    """What the forward pass is launched with in windows of so many tokens."""
    return Launch(warps=4, stages=2, windows=8, keys=LARGEST_BLOCK if length <= LARGEST_BLOCK else 32)


def backward_launch(length: int, dtype: torch.dtype) -> Launch:
    """What the backward pass is launched with in windows of so many tokens."""
    return Launch(warps=8, stages=1, windows=16) if dtype == torch.float32 else Launch(warps=4, stages=2, windows=16)


def forward(
    qkv: Tensor,
    padding: Tensor,
    bias: Tensor,
    window: Sequence[int],
    shift: Sequence[int],
    launch: Launch | None = None,
) -> tuple[Tensor, Tensor]:
    """The attended tokens (B, H, W, C) and the log2-sum-exp2 of their scores, (B, heads, H, W)."""
    batch, height, width, _, heads, dim = qkv.shape
    output = qkv.new_empty(batch, height, width, heads * dim)
    logsumexp = qkv.new_empty(batch, heads, height, width, dtype=torch.float32)
    call = _Call(qkv, window, shift, launch or forward_launch(math.prod(window), qkv.dtype), pairs=False)
    with call.device:
        _forward[call.grid](qkv, padding, bias, output, logsumexp, *call.sizes, **call.constants)
    return output, logsumexp


def backward(
    gradient: Tensor,
    qkv: Tensor,
    padding: Tensor,
    bias: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    window: Sequence[int],
    shift: Sequence[int],
    launch: Launch | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of qkv, padding and bias, for that of the attended tokens, (B, H, W, C)."""
    call = _Call(qkv, window, shift, launch or backward_launch(math.prod(window), qkv.dtype), pairs=True)
    # A query's gradient has a part for each block of keys, those of a key and a value one for each block of queries.
    qkv_parts = qkv.new_empty(call.blocks, *qkv.shape)
    bias_parts = bias.new_empty(call.runs, *bias.shape, dtype=torch.float32)
    # Padding's query has no gradient: what it attends to is left behind.
    padding_parts = qkv.new_zeros(call.runs * call.blocks**2, *padding.shape, dtype=torch.float32)
    tensors = (qkv, padding, bias, output, logsumexp, gradient.contiguous(), qkv_parts, bias_parts, padding_parts)
    with call.device:
        _backward[call.grid](*tensors, *call.sizes, **call.constants)
    qkv_gradient = qkv_parts[0] if call.blocks == 1 else qkv_parts.sum(0)
    return qkv_gradient, padding_parts.sum(0).to(padding.dtype), bias_parts.sum(0).to(bias.dtype)


class _Call:
    """Sizes and grid of a launch: one dimension, since the others end at 65,535."""

    def __init__(
        self, qkv: Tensor, window: Sequence[int], shift: Sequence[int], launch: Launch, *, pairs: bool
    ) -> None:
        # Triton launches on the current GPU, wherever the tensors are.
        self.device = torch.cuda.device(qkv.device) if qkv.is_cuda else nullcontext()
        batch, height, width, _, heads, dim = qkv.shape
        rows, columns = (triton.cdiv(size, side) for size, side in zip((height, width), window, strict=True))
        length = math.prod(window)
        total = batch * rows * columns
        block = min(LARGEST_BLOCK, max(SMALLEST_BLOCK, triton.next_power_of_2(length)))
        self.blocks = triton.cdiv(length, block)
        programs = heads * (self.blocks**2 if pairs else self.blocks)  # for each run of windows
        per_program = max(1, min(launch.windows, total * programs // PROGRAMS))
        self.runs = triton.cdiv(total, per_program)
        self.grid = (self.runs * programs,)
        self.sizes = (heads, height, width, rows, columns, total, per_program, dim**-0.5)
        self.constants = {
            "WINDOW_H": window[0],
            "WINDOW_W": window[1],
            "SHIFT_H": shift[0],
            "SHIFT_W": shift[1],
            "D": dim,
            "QUERIES": block,
            "KEYS": min(block, launch.keys),
            "PADDED": rows * window[0] != height or columns * window[1] != width,
            "PRECISION": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
            "num_warps": launch.warps,
            "num_stages": launch.stages,
        }


# Sizes change with the image: a kernel must not be compiled again because one of them happens to be a multiple of 16.
_kernel = triton.jit(do_not_specialize=["heads", "height", "width", "rows", "columns", "total", "per_program", "scale"])


@triton.jit
def _dot(left, right, PRECISION: tl.constexpr):
    if INTERPRETED:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, input_precision=PRECISION)


@triton.jit
def _rows(y, x, places, height, width, padded_height, padded_width, WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr):
    """Row of each place of the window that begins at (y, x); beyond the padded grid it goes on at the other end."""
    y += places // WINDOW_W
    x += places % WINDOW_W
    y = tl.where(y >= padded_height, y - padded_height, y)
    x = tl.where(x >= padded_width, x - padded_width, x)
    return tl.where((y < height) & (x < width) & (places < WINDOW_H * WINDOW_W), y * width + x, -1)


@triton.jit
def _load_padded(first, stride, rows, padding, D: tl.constexpr, PADDED: tl.constexpr):
    """Rows (places, D), those of padding where a row is -1."""
    dims = tl.arange(0, D)[None, :]
    rows = rows[:, None]
    if PADDED:
        loaded = tl.load(tl.where(rows < 0, padding + dims, first + rows.to(tl.int64) * stride + dims))
    else:  # -1 is then beyond the window alone, whose weight is zero
        loaded = tl.load(first + rows.to(tl.int64) * stride + dims, mask=rows >= 0, other=0.0)
    return loaded


@triton.jit
def _load_real(first, stride, rows, D: tl.constexpr):
    """Rows (places, D), zero where a row is -1."""
    rows = rows[:, None]
    return tl.load(first + rows.to(tl.int64) * stride + tl.arange(0, D)[None, :], mask=rows >= 0, other=0.0)


@triton.jit
def _store_real(first, stride, rows, values, D: tl.constexpr):
    """Stores values (places, D) in their rows, none where a row is -1."""
    rows = rows[:, None]
    places = first + rows.to(tl.int64) * stride + tl.arange(0, D)[None, :]
    tl.store(places, values.to(first.dtype.element_ty), mask=rows >= 0)


@triton.jit
def _bias(bias, head, queries, keys, N: tl.constexpr):
    """The bias of a head (queries, keys) in units of log2, -inf for keys beyond the window."""
    queries, keys = queries[:, None], keys[None, :]
    loaded = tl.load(bias + head * N * N + queries * N + keys, mask=(queries < N) & (keys < N), other=0.0)
    return tl.where(keys < N, loaded.to(tl.float32) * LOG2E, float("-inf"))


@triton.jit
def _ends(
    places,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, SHIFT_H: tl.constexpr, SHIFT_W: tl.constexpr,
):  # fmt: skip
    """Which places of a window the shift may fill from the other end of the grid: 2 along y, 1 along x, 3 both."""
    end_y = places // WINDOW_W >= WINDOW_H - SHIFT_H
    end_x = places % WINDOW_W >= WINDOW_W - SHIFT_W
    return 2 * end_y.to(tl.int32) + end_x.to(tl.int32)


@_kernel
def _forward(
    qkv, padding, bias, output, logsumexp,
    heads, height, width, rows, columns, total, per_program, scale,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, SHIFT_H: tl.constexpr, SHIFT_W: tl.constexpr,
    D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = WINDOW_H * WINDOW_W
    BLOCKS: tl.constexpr = (N + QUERIES - 1) // QUERIES
    KEY_BLOCKS: tl.constexpr = (N + KEYS - 1) // KEYS
    # Neighbouring programs are heads of one window: together they read whole rows.
    head = tl.program_id(0) % heads
    queries = tl.program_id(0) // heads % BLOCKS * QUERIES + tl.arange(0, QUERIES)
    start = tl.program_id(0) // (heads * BLOCKS) * per_program
    keys = tl.arange(0, KEYS)
    channels = heads * D
    tokens = height * width
    padded_height, padded_width = rows * WINDOW_H, columns * WINDOW_W
    bias_block = _bias(bias, head, queries, keys, N)
    for number in range(start, min(start + per_program, total)):
        image = (number // (rows * columns)).to(tl.int64)
        y = number // columns % rows * WINDOW_H + SHIFT_H
        x = number % columns * WINDOW_W + SHIFT_W
        query_rows = _rows(y, x, queries, height, width, padded_height, padded_width, WINDOW_H, WINDOW_W)
        first = qkv + image * tokens * 3 * channels + head * D
        query = _load_real(first, 3 * channels, query_rows, D)
        largest = tl.full([QUERIES], float("-inf"), tl.float32)
        sums = tl.zeros([QUERIES], tl.float32)
        attended = tl.zeros([QUERIES, D], tl.float32)
        for block in tl.static_range(KEY_BLOCKS):
            block_keys = block * KEYS + keys
            key_rows = _rows(y, x, block_keys, height, width, padded_height, padded_width, WINDOW_H, WINDOW_W)
            key = _load_padded(first + channels, 3 * channels, key_rows, padding + channels + head * D, D, PADDED)
            value = _load_padded(
                first + 2 * channels, 3 * channels, key_rows, padding + 2 * channels + head * D, D, PADDED
            )
            if KEY_BLOCKS > 1:
                bias_block = _bias(bias, head, queries, block_keys, N)
            scores = _dot(query, tl.trans(key), PRECISION) * (scale * LOG2E) + bias_block
            if SHIFT_H + SHIFT_W > 0:
                wraps = 2 * (y + WINDOW_H > padded_height).to(tl.int32) + (x + WINDOW_W > padded_width).to(tl.int32)
                if wraps > 0:
                    ends = (
                        _ends(queries, WINDOW_H, WINDOW_W, SHIFT_H, SHIFT_W)[:, None]
                        ^ _ends(block_keys, WINDOW_H, WINDOW_W, SHIFT_H, SHIFT_W)[None, :]
                    )
                    scores += tl.where((ends & wraps) > 0, MASKED_LOG2, 0.0)
            new_largest = tl.maximum(largest, tl.max(scores, 1))
            shrink = tl.exp2(largest - new_largest)
            largest = new_largest
            weights = tl.exp2(scores - largest[:, None])
            sums = sums * shrink + tl.sum(weights, 1)
            attended = attended * shrink[:, None] + _dot(weights.to(value.dtype), value, PRECISION)

        first_output = output + image * tokens * channels + head * D
        _store_real(first_output, channels, query_rows, attended / sums[:, None], D)
        places = logsumexp + (image * heads + head) * tokens + query_rows
        tl.store(places, largest + tl.log2(sums), mask=query_rows >= 0)


@_kernel
def _backward(
    qkv, padding, bias, output, logsumexp, gradient, qkv_parts, bias_parts, padding_parts,
    heads, height, width, rows, columns, total, per_program, scale,
    WINDOW_H: tl.constexpr, WINDOW_W: tl.constexpr, SHIFT_H: tl.constexpr, SHIFT_W: tl.constexpr,
    D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = WINDOW_H * WINDOW_W
    BLOCKS: tl.constexpr = (N + QUERIES - 1) // QUERIES  # of queries and of keys
    head = tl.program_id(0) % heads
    query_block = tl.program_id(0) // heads % BLOCKS
    key_block = tl.program_id(0) // (heads * BLOCKS) % BLOCKS
    run = tl.program_id(0) // (heads * BLOCKS * BLOCKS)
    queries = query_block * QUERIES + tl.arange(0, QUERIES)
    keys = key_block * KEYS + tl.arange(0, KEYS)
    channels = heads * D
    tokens = height * width
    padded_height, padded_width = rows * WINDOW_H, columns * WINDOW_W
    part = (total // (rows * columns)).to(tl.int64) * tokens * 3 * channels
    bias_block = _bias(bias, head, queries, keys, N)
    bias_gradient = tl.zeros([QUERIES, KEYS], tl.float32)
    padding_key_gradient = tl.zeros([KEYS, D], tl.float32)
    padding_value_gradient = tl.zeros([KEYS, D], tl.float32)
    for number in range(run * per_program, min((run + 1) * per_program, total)):
        image = (number // (rows * columns)).to(tl.int64)
        y = number // columns % rows * WINDOW_H + SHIFT_H
        x = number % columns * WINDOW_W + SHIFT_W
        query_rows = _rows(y, x, queries, height, width, padded_height, padded_width, WINDOW_H, WINDOW_W)
        key_rows = _rows(y, x, keys, height, width, padded_height, padded_width, WINDOW_H, WINDOW_W)
        first = qkv + image * tokens * 3 * channels + head * D
        query = _load_real(first, 3 * channels, query_rows, D)
        key = _load_padded(first + channels, 3 * channels, key_rows, padding + channels + head * D, D, PADDED)
        value = _load_padded(first + 2 * channels, 3 * channels, key_rows, padding + 2 * channels + head * D, D, PADDED)
        first_output = image * tokens * channels + head * D
        output_gradient = _load_real(gradient + first_output, channels, query_rows, D)
        places = logsumexp + (image * heads + head) * tokens + query_rows
        query_sums = tl.load(places, mask=query_rows >= 0, other=float("inf"))

        scores = _dot(query, tl.trans(key), PRECISION) * (scale * LOG2E) + bias_block
        if SHIFT_H + SHIFT_W > 0:
            wraps = 2 * (y + WINDOW_H > padded_height).to(tl.int32) + (x + WINDOW_W > padded_width).to(tl.int32)
            if wraps > 0:
                ends = (
                    _ends(queries, WINDOW_H, WINDOW_W, SHIFT_H, SHIFT_W)[:, None]
                    ^ _ends(keys, WINDOW_H, WINDOW_W, SHIFT_H, SHIFT_W)[None, :]
                )
                scores += tl.where((ends & wraps) > 0, MASKED_LOG2, 0.0)
        weights = tl.exp2(scores - query_sums[:, None])
        weight_gradient = _dot(output_gradient, tl.trans(value), PRECISION)
        # The softmax's backward needs sum(weights * their gradient), which equals sum(output * its gradient).
        if BLOCKS == 1:
            correction = tl.sum(weights * weight_gradient, 1)
        else:
            attended = _load_real(output + first_output, channels, query_rows, D)
            correction = tl.sum(attended.to(tl.float32) * output_gradient.to(tl.float32), 1)
        score_gradient = weights * (weight_gradient - correction[:, None])
        bias_gradient += score_gradient
        rounded = score_gradient.to(key.dtype)
        query_gradient = _dot(rounded, key, PRECISION) * scale
        key_gradient = _dot(tl.trans(rounded), query, PRECISION) * scale
        value_gradient = _dot(tl.trans(weights.to(value.dtype)), output_gradient, PRECISION)

        first = qkv_parts + image * tokens * 3 * channels + head * D
        _store_real(first + key_block * part, 3 * channels, query_rows, query_gradient, D)
        first += query_block * part
        _store_real(first + channels, 3 * channels, key_rows, key_gradient, D)
        _store_real(first + 2 * channels, 3 * channels, key_rows, value_gradient, D)
        if PADDED:
            is_padding = ((key_rows < 0) & (keys < N))[:, None]
            padding_key_gradient += tl.where(is_padding, key_gradient, 0.0)
            padding_value_gradient += tl.where(is_padding, value_gradient, 0.0)

    places = bias_parts + (run.to(tl.int64) * heads + head) * N * N + queries[:, None] * N + keys[None, :]
    tl.store(places, bias_gradient, mask=(queries < N)[:, None] & (keys < N)[None, :])
    if PADDED:
        program = (tl.program_id(0) // heads).to(tl.int64)
        places = padding_parts + program * 3 * channels + head * D + tl.arange(0, D)
        tl.store(places + channels, tl.sum(padding_key_gradient, 0))
        tl.store(places + 2 * channels, tl.sum(padding_value_gradient, 0))
