"""What a Swin block does to each token by itself: layer norm and MLP, by kernels in Triton where those are faster.

On a GPU, PyTorch's layer norm takes eight times as long as memory does for the few channels of the first stages, and at
inference the hidden channels of the MLP need not reach memory at all. The kernels serve where they pass a check on the
device, as `gridded_attention` says; compilers are left the plain form, which they fuse themselves.

Shapes: R rows of C channels, the tokens of a batch in any order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from swin_dense.backbones.gridded_attention import TOLERANCES, kernel_is_right, relative_error

MLP_RATIO = 4
"""Hidden channels of the MLP per channel of a token, in every published Swin."""

LEAST_VALUES = 2**22
"""Tokens times channels from which a kernel gains more than it costs to start."""

MOST_CHANNELS = 4096
"""Of a layer norm: a row must fit into the registers of a program."""

MOST_MLP_CHANNELS = 128
"""Of an MLP as one kernel: beyond, where hidden channels are many, it is slower than the matrix products alone."""


class LayerNorm(nn.LayerNorm):
    """PyTorch's layer norm with another kernel for many tokens on a GPU; equal to rounding."""

    def forward(self, tokens: Tensor, *, for_linear: bool = False, channels_first: bool = False) -> Tensor:
        """Normalises tokens (B, ..., C).

        `for_linear` rounds them at once to what autocast would round them to before a linear layer; `channels_first`
        returns a contiguous map (B, C, ...).
        """
        dtype = linear_dtype(tokens) if for_linear else None
        if self._has_kernel(tokens, channels_first):
            is_cast = torch.is_autocast_enabled(tokens.device.type)
            wanted = dtype or (torch.float32 if is_cast else tokens.dtype)
            arguments = self.weight, self.bias, self.eps, wanted, channels_first
            normalised: Tensor = _Norm.apply(tokens.contiguous(), *arguments)
            return normalised
        if channels_first:
            # As rows: a norm keeps its input for the backward pass, and PyTorch's default compiler stops at a view that
            # is kept and whose strides have open sizes, since it cannot put them in order.
            return super().forward(tokens.flatten(0, -2)).view(tokens.shape).movedim(-1, 1).contiguous()
        output = super().forward(tokens)
        return output if dtype in (None, output.dtype) else output.to(dtype)

    def _has_kernel(self, tokens: Tensor, channels_first: bool) -> bool:
        if not (_may_serve(tokens) and tokens.shape[-1] <= MOST_CHANNELS):
            return False
        # Autocast computes in float32 whatever the types are, and without it PyTorch wants them equal.
        if not (torch.is_autocast_enabled(tokens.device.type) or tokens.dtype == self.weight.dtype):
            return False
        backward = torch.is_grad_enabled() and (tokens.requires_grad or self.weight.requires_grad)
        sizes = tokens.shape[-1], backward, channels_first
        return kernel_is_right(errors_of_norm, tokens.device, tokens.dtype, *sizes)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, for each token by itself."""

    def __init__(self, channels: int) -> None:
        """Creates the two layers."""
        super().__init__()
        self.fc1 = nn.Linear(channels, MLP_RATIO * channels)
        self.fc2 = nn.Linear(MLP_RATIO * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens (..., C) to (..., C)."""
        mapped: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return mapped


def has_norm_and_mlp(rows: Tensor, branch: Tensor, norm: LayerNorm, mlp: nn.Module) -> bool:
    """Whether `norm_and_mlp` serves: without gradients, and without hooks or layers that it would pass by."""
    dtype, channels = linear_dtype(rows), rows.shape[-1]
    if torch.is_grad_enabled() or dtype not in (torch.bfloat16, torch.float16) or branch.dtype != dtype:
        return False
    if not (_may_serve(rows) and channels <= MOST_MLP_CHANNELS and isinstance(mlp, Mlp)):
        return False
    if not all(is_plain(one) for one in (norm, mlp, mlp.fc1, mlp.fc2)):
        return False
    return kernel_is_right(errors_of_mlp, rows.device, dtype, rows.dtype, channels)


def norm_and_mlp(rows: Tensor, branch: Tensor, norm: LayerNorm, mlp: Mlp) -> Tensor:
    """Adds a branch to rows (R, C), and then MLP(norm(rows)), by one kernel; without gradients."""
    from swin_dense.backbones import triton_rows

    first, second = ((layer.weight.to(branch.dtype), layer.bias) for layer in (mlp.fc1, mlp.fc2))
    arguments = (norm.weight, norm.bias, norm.eps), first, second
    return triton_rows.norm_and_mlp(rows.contiguous(), branch.contiguous(), *arguments)


def is_plain(layer: nn.Module) -> bool:
    """Whether what a layer computes follows from its parameters: no hook, no subclass, such as one with adapters."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return type(layer) in (LayerNorm, Mlp, nn.Linear, nn.Conv2d, nn.Conv3d) and not hooks


def _may_serve(tokens: Tensor) -> bool:
    """Whether there are tokens enough, of a known type; tracers and compilers are left what they understand."""
    return (
        not torch.compiler.is_compiling()  # first: asked for a number of tokens, it would compile small and large apart
        and tokens.device.type in ("cuda", "cpu")  # on a CPU only if asked to, as tests are
        and tokens.numel() >= LEAST_VALUES
        and tokens.dtype in TOLERANCES
        and type(tokens) is Tensor
        and not torch.jit.is_tracing()  # type: ignore[no-untyped-call,attr-defined]  # torch leaves it untyped
    )


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor,
        epsilon: float,
        dtype: torch.dtype,
        channels_first: bool,
    ) -> Tensor:
        from swin_dense.backbones import triton_rows

        arguments = rows, weight, bias, epsilon, dtype
        output, means, scales = triton_rows.norm_forward(*arguments, channels_first=channels_first)
        ctx.save_for_backward(rows, weight, means, scales)
        ctx.channels_first = channels_first
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        from swin_dense.backbones import triton_rows

        gradient = gradient.contiguous()
        found = triton_rows.norm_backward(gradient, *ctx.saved_tensors, channels_first=ctx.channels_first)
        return *found, None, None, None


def errors_of_norm(
    device: torch.device, dtype: torch.dtype, channels: int, backward: bool, channels_first: bool
) -> list[float]:
    """Relative errors of a layer norm, and if asked of its gradients, for random tokens."""
    shape = (2, 7, 9, channels)
    tokens, weight, bias, weights = _random(device, [shape, (channels,), (channels,), shape])
    inputs = [one.to(dtype).requires_grad_() for one in (tokens, weight, bias)]
    exact = [one.detach().double().requires_grad_() for one in inputs]
    found: list[Tensor] = [_Norm.apply(*inputs, 1e-5, dtype, channels_first)]
    wanted = [functional.layer_norm(exact[0], (channels,), exact[1], exact[2], 1e-5)]
    if channels_first:
        wanted[0], weights = wanted[0].movedim(-1, 1), weights.movedim(-1, 1)
    if backward:
        weights = weights.to(dtype)
        found += torch.autograd.grad(found[0], inputs, weights)
        wanted += torch.autograd.grad(wanted[0], exact, weights.double())
    return [relative_error(ours, theirs) for ours, theirs in zip(found, wanted, strict=True)]


def errors_of_mlp(device: torch.device, dtype: torch.dtype, rows_dtype: torch.dtype, channels: int) -> list[float]:
    """The relative error of norm and MLP in one kernel, for random rows."""
    rows, branch = _random(device, [(150, channels)] * 2)
    with torch.device(device):
        norm, mlp = LayerNorm(channels), Mlp(channels)
    norm, mlp = norm.to(rows_dtype), mlp.to(rows_dtype)
    for one in norm.parameters():
        nn.init.normal_(one)
    rows, branch = rows.to(rows_dtype), branch.to(dtype)
    with torch.no_grad():
        found = norm_and_mlp(rows, branch, norm, mlp)
        total = rows.double() + branch.double()
        wanted = total + mlp.double()(norm.double()(total))
    return [relative_error(found, wanted)]


def _random(device: torch.device, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    return [torch.randn(shape, generator=generator, device=device) for shape in shapes]


def linear_dtype(tokens: Tensor) -> torch.dtype:
    """The type in which the next linear layer computes: that of autocast, or else that of the tokens."""
    device = tokens.device.type
    # Compilers of PyTorch before 2.12 stop at this question, whose answer is yes on all of their devices.
    may_cast = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device)
    if tokens.dtype == torch.float64 or not may_cast or not torch.is_autocast_enabled(device):
        return tokens.dtype
    return torch.get_autocast_dtype(device)
