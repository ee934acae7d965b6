"""Window attention on a grid of tokens that stays as it is, by one kernel in Triton; for GPUs.

Padding the grid, shifting it and cutting it into windows are passes over memory that cost a GPU as much as attention
itself. The kernel finds the tokens of each window in the grid, attends, and puts the result back to the same places.
`plain_attention` is the same in PyTorch, to which the kernel is held.

Shapes: B images, a grid of (H, W) tokens, N tokens in a window, C channels = heads x D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.backbones.windows import MASKED


def plain_attention(qkv: Tensor, padding: Tensor, bias: Tensor, window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """Softmax(q k^T / sqrt(D) + bias + mask) v in the windows of a padded and shifted grid, which is then put back.

    Takes qkv (B, H, W, 3, heads, D), that of a padding token (3, heads, D) and the bias (heads, N, N); returns
    (B, H, W, C).
    """
    batch, height, width, _, heads, dim = qkv.shape
    rows, columns = (-(-size // side) for size, side in zip((height, width), window, strict=True))
    cut = (rows, window[0], columns, window[1])
    below, right = rows * window[0] - height, columns * window[1] - width
    grid = functional.pad(qkv - padding, (0, 0, 0, 0, 0, 0, 0, right, 0, below)) + padding
    grid = grid.roll((-shift[0], -shift[1]), (1, 2)).view(batch, *cut, 3, heads, dim)
    query, key, value = grid.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).unbind()  # (B, rows, columns, heads, N, D)

    ends = [
        torch.arange(count * side) >= count * side - step
        for count, side, step in zip(cut[::2], window, shift, strict=True)
    ]
    regions = 2 * ends[0].long()[:, None] + ends[1].long()
    regions = regions.view(cut).transpose(1, 2).flatten(2).to(bias.device)
    mask = MASKED * (regions[..., :, None] != regions[..., None, :]).to(bias.dtype)

    scores = query @ key.transpose(-1, -2) * dim**-0.5 + bias + mask[:, :, None]
    attended = (scores.softmax(-1) @ value).unflatten(4, window).permute(0, 1, 4, 2, 5, 3, 6)
    attended = attended.reshape(batch, rows * window[0], columns * window[1], heads * dim)
    output: Tensor = attended.roll((shift[0], shift[1]), (1, 2))[:, :height, :width]
    return output


def gridded_attention(
    qkv: Tensor, padding: Tensor, bias: Tensor, window: Sequence[int], shift: Sequence[int]
) -> Tensor:
    """What `plain_attention` computes, by the Triton kernel; sums are in float32 whatever the type of `qkv`."""
    output: Tensor = _attend(qkv.contiguous(), padding.contiguous(), bias.contiguous(), list(window), list(shift))[0]
    return output


# Opaque to compilers, which take the shapes from the functions beside them; Triton is imported when a kernel runs.
@torch.library.custom_op("swin_dense::gridded_attention", mutates_args=())
def _attend(
    qkv: Tensor, padding: Tensor, bias: Tensor, window: Sequence[int], shift: Sequence[int]
) -> tuple[Tensor, Tensor]:
    from swin_dense.backbones import triton_attention

    return triton_attention.forward(qkv, padding, bias, window, shift)


@_attend.register_fake
def _(qkv: Tensor, padding: Tensor, bias: Tensor, window: Sequence[int], shift: Sequence[int]) -> tuple[Tensor, Tensor]:
    batch, height, width, _, heads, dim = qkv.shape
    logsumexp = qkv.new_empty(batch, heads, height, width, dtype=torch.float32)
    return qkv.new_empty(batch, height, width, heads * dim), logsumexp


@torch.library.custom_op("swin_dense::gridded_attention_backward", mutates_args=())
def _attend_backward(
    gradient: Tensor,
    qkv: Tensor,
    padding: Tensor,
    bias: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    window: Sequence[int],
    shift: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    from swin_dense.backbones import triton_attention

    return triton_attention.backward(gradient, qkv, padding, bias, output, logsumexp, window, shift)


@_attend_backward.register_fake
def _(gradient: Tensor, qkv: Tensor, padding: Tensor, bias: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(qkv), torch.empty_like(padding), torch.empty_like(bias)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.window, ctx.shift = inputs
    ctx.save_for_backward(*tensors, *output)


def _gradients(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*_attend_backward(gradient, *ctx.saved_tensors, ctx.window, ctx.shift), None, None)


_attend.register_autograd(_gradients, setup_context=_keep)
