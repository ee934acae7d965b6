"""Window attention on a grid of tokens that stays as it is, by one kernel in Triton; for GPUs.

Padding the grid, shifting it and cutting it into windows are passes over memory that cost a GPU as much as attention
itself. The kernel finds the tokens of each window in the grid, attends, and puts the result back to the same places.
`plain_attention` is the same in PyTorch, to which the kernel is held.

The environment variable SWIN_DENSE_TRITON_KERNELS says where it and the kernels of `rows` are used: "off", nowhere;
"auto", on NVIDIA GPUs where they pass a check against PyTorch, once for each kind of windows or number of channels;
"on", everywhere, without a check.

Shapes: B images, a grid of (H, W) tokens, N tokens in a window, C channels = heads x D.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.backbones.windows import MASKED, StillPlan
from swin_dense.errors import ConfigError

logger = logging.getLogger(__name__)

VARIABLE = "SWIN_DENSE_TRITON_KERNELS"
DEFAULT_MODE = "auto"
MODES = ("off", "auto", "on")

DIMS = (16, 32, 64)
"""Channels of a head that the kernel is made for."""

TOLERANCES = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Relative errors that pass the check, some times what rounding explains; TF32 is that of float32."""

LARGEST_WINDOW = 256
"""Tokens of a window: more would need ever more memory for the gradients of pairs of blocks."""

OLDEST_TRITON = (3, 6)
"""Version 3.2 ends the process when it compiles these kernels, and those between the two were not tried."""

OLDEST_GPU = (8, 0)
"""Compute capability: the first with matrix units for bfloat16 and asynchronous copies."""


class GridPartition(NamedTuple):
    """A `Partition` whose rows are the tokens of the grid in raster order: attention itself cuts, pads and shifts."""

    shape: tuple[int, int, int]  # (1, B, H * W): an image is what the rows of a window are elsewhere
    grid: tuple[int, ...]
    window: tuple[int, ...]
    shift: tuple[int, ...]

    def fill(self, rows: Tensor) -> Tensor:
        """Views rows (R, C) as the grid (B, H, W, C)."""
        return rows.view(self.shape[1], *self.grid, -1)

    def take(self, tokens: Tensor) -> Tensor:
        """Views a grid (B, H, W, C), or numbers for each token (1, B, H * W, C), as rows (R, C)."""
        return tokens.flatten(0, 2)


def grid_plan(batch: int, grid: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> StillPlan:
    """A batch of grids (H, W) cut into regular and into shifted windows."""
    shape, sides = (1, batch, math.prod(grid)), (tuple(grid), tuple(window))
    return StillPlan((GridPartition(shape, *sides, (0,) * len(window)), GridPartition(shape, *sides, tuple(shift))))


def kernel_serves(device: torch.device, dtype: torch.dtype, dim: int, window: tuple[int, ...]) -> bool:
    """Whether the kernel computes attention of heads with `dim` channels in such windows."""
    is_made_for = len(window) == 2 and math.prod(window) <= LARGEST_WINDOW and dim in DIMS and dtype in TOLERANCES
    return is_made_for and kernel_is_right(errors_of_attention, device, dtype, dim, window)


# What `torch.compiler.assume_constant_result` does, without the seconds that importing the compiler takes.
kernel_serves._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as every attribute of a function


def kernel_is_right(errors: Callable[..., list[float]], device: torch.device, dtype: torch.dtype, *sizes: Any) -> bool:
    """Whether a kernel is to be used: where `errors(device, dtype, *sizes)`, asked once, are those of rounding."""
    mode = os.environ.get(VARIABLE, DEFAULT_MODE)
    if mode not in MODES:
        raise ConfigError(f'{VARIABLE}="{mode}": must be one of {", ".join(MODES)}')
    return mode != "off" and (mode == "on" or _is_right(errors, device, dtype, *sizes))


@cache
def _is_right(errors: Callable[..., list[float]], device: torch.device, dtype: torch.dtype, *sizes: Any) -> bool:
    if device.type != "cuda" or torch.version.cuda is None or torch.cuda.get_device_capability(device) < OLDEST_GPU:
        return False
    try:
        import triton

        if tuple(int(part) for part in triton.__version__.split(".")[:2]) < OLDEST_TRITON:
            return False
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            found = errors(device, dtype, *sizes)
    except Exception as error:  # whatever a compiler or a driver raises: PyTorch's own kernels serve as well
        logger.warning(
            "%s is left to PyTorch's kernels, as Triton's failed on %s: %r",
            errors.__name__.removeprefix("errors_of_"),
            device,
            error,
        )
        return False
    if not all(error < TOLERANCES[dtype] for error in found):
        logger.warning(
            "%s is left to PyTorch's kernels, as Triton's errs on %s by %s",
            errors.__name__.removeprefix("errors_of_"),
            device,
            found,
        )
        return False
    return True


def errors_of_attention(device: torch.device, dtype: torch.dtype, dim: int, window: tuple[int, ...]) -> list[float]:
    """Relative errors of the output and of the gradients of qkv, padding and bias, for random tokens on an odd grid."""
    generator = torch.Generator(device).manual_seed(0)
    heads, length, shift = 2, math.prod(window), [side // 2 for side in window]
    grid = [2 * side + 1 for side in window]
    shapes = (2, *grid, 3, heads, dim), (3, heads, dim), (heads, length, length)
    dtypes = dtype, dtype, torch.float32
    inputs = [
        torch.randn(shape, generator=generator, device=device).to(dtype).requires_grad_()
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    found = gridded_attention(inputs[0], inputs[1], inputs[2], window, shift)
    wanted = plain_attention(exact[0], exact[1], exact[2], window, shift)
    weights = torch.randn(found.shape, generator=generator, device=device).to(dtype)
    all_found = [found, *torch.autograd.grad(found, inputs, weights)]
    all_wanted = [wanted, *torch.autograd.grad(wanted, exact, weights.double())]
    return [relative_error(ours, theirs) for ours, theirs in zip(all_found, all_wanted, strict=True)]


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over that of what is wanted, or over 1 where that is nothing but rounding."""
    norm = float(wanted.detach().norm())
    return float((found - wanted).detach().norm()) / (norm if norm > 1e-9 else 1.0)


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
    ctx.set_materialize_grads(False)  # none for the log-sum-exp, which is not differentiated
    *tensors, ctx.window, ctx.shift = inputs
    ctx.save_for_backward(*tensors, *output)


def _gradients(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*_attend_backward(gradient, *ctx.saved_tensors, ctx.window, ctx.shift), None, None)


_attend.register_autograd(_gradients, setup_context=_keep)
