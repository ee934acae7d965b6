"""What a Swin block does to each token by itself, layer norm and linear layers, by the kernels that are faster.

On a GPU, PyTorch's layer norm takes eight times as long as memory does for the few channels of the first stages, and at
inference the hidden channels of the MLP need not reach memory at all. Kernels in Triton serve where they pass a check
on the device, as `gridded_attention` says; compilers are left the plain form, which they fuse themselves.

On a CPU, PyTorch's linear layer first writes its bias to every row and then adds the product to it; oneDNN, which
PyTorch brings along, adds the bias, and a GELU behind it, before it writes a row. Where a trial came out right it
serves in bfloat16, where products are short, if nothing is kept for a backward pass; and in float32, in any case, on
processors of AMD, for which PyTorch's other library, Intel's MKL, has slower kernels.

For its backward pass, a linear layer keeps what came before the norm or the GELU in front of it, which their gradients
need in any case, and computes its input from that again: kept as well, the inputs would be two fifths of all that a
block keeps.

Shapes: R rows of C channels, the tokens of a batch in any order.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules import module as all_modules

from swin_dense.backbones.gridded_attention import TOLERANCES, kernel_is_right, relative_error

logger = logging.getLogger(__name__)

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
        parameters = self.weight, self.bias
        return _layer_norm(tokens, *parameters, self.eps, for_linear=for_linear, channels_first=channels_first)


def normalised(norm: nn.Module, tokens: Tensor) -> Tensor:
    """What a norm, or what was put in its place, makes of tokens before a linear layer."""
    output: Tensor = norm(tokens, for_linear=True) if isinstance(norm, LayerNorm) else norm(tokens)
    return output


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, for each token by itself."""

    def __init__(self, channels: int) -> None:
        """Creates the two layers."""
        super().__init__()
        self.fc1 = nn.Linear(channels, MLP_RATIO * channels)
        self.fc2 = nn.Linear(MLP_RATIO * channels, channels)

    def forward(self, tokens: Tensor, norm: LayerNorm | None = None) -> Tensor:
        """Maps tokens (..., C) to (..., C), which a norm has normalised if one is given."""
        before = Before(norm)
        if not (is_eager(tokens) and needs_gradient(self, tokens)):
            return linear(self.fc2, linear(self.fc1, tokens, before, gelu=True))
        return linear(self.fc2, linear(self.fc1, tokens, before), Before(function=functional.gelu))


@dataclass(frozen=True)  # a named tuple with a norm would stop the compiler of PyTorch 2.6
class Before:
    """What comes before a linear layer: a norm, and then a function without parameters."""

    norm: LayerNorm | None = None
    function: Callable[[Tensor], Tensor] | None = None

    def __call__(self, tokens: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Computes the input of the layer, with those parameters of the norm if they are given."""
        if self.norm is not None and weight is not None and bias is not None:
            tokens = _layer_norm(tokens, weight, bias, self.norm.eps, for_linear=True)
        elif self.norm is not None:
            tokens = normalised(self.norm, tokens)
        return tokens if self.function is None else self.function(tokens)


NOTHING = Before()


def linear(layer: nn.Linear, tokens: Tensor, before: Before = NOTHING, *, gelu: bool = False) -> Tensor:
    """Maps tokens (..., C) by a linear layer behind what comes before it, and then by a GELU if asked."""
    inputs = before(tokens)
    mapped: Tensor
    if not (is_eager(inputs) and is_plain(layer)):
        mapped = layer(inputs)
    elif not needs_gradient(layer, inputs):
        if inputs.is_cpu and onednn_is_right(dtype := linear_dtype(inputs)):
            parts = (one if one is None else one.to(dtype) for one in (inputs, layer.weight, layer.bias))
            return _onednn_linear(*parts, gelu=gelu)
        mapped = layer(inputs)
    else:
        if before.norm is not None and not is_plain(before.norm):  # it would run twice
            tokens, before = inputs, NOTHING
        if before == NOTHING and not _onednn_serves(inputs, layer.weight):
            mapped = layer(inputs)
        else:
            # With the parameters that the norm has now; after `torch.func.functional_call` it has others.
            kept = [tokens, *([] if before.norm is None else [before.norm.weight, before.norm.bias])]
            mapped = _Linear.apply(inputs, layer.weight, layer.bias, before, *(one.detach() for one in kept))
    return functional.gelu(mapped) if gelu else mapped


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


PLAIN_LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d, LayerNorm, Mlp)


def is_plain(layer: nn.Module, types: tuple[type[nn.Module], ...] = PLAIN_LAYERS) -> bool:
    """Whether what a layer computes follows from its parameters: no hook, nothing put in the place of a class.

    Adapters do that to a layer or its `forward`, and quantisation to its weight.
    """
    return (
        type(layer) in types
        and all(type(one) in (nn.Parameter, Tensor, NoneType) for one in layer._parameters.values())
        and runs_alone(layer)
    )


def runs_alone(module: nn.Module) -> bool:
    """Whether a call of a module is the `forward` of its class and nothing else."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    hooks = hooks or all_modules._global_forward_hooks or all_modules._global_forward_pre_hooks
    hooks = hooks or all_modules._global_backward_hooks or all_modules._global_backward_pre_hooks
    return not (hooks or "forward" in module.__dict__)


def needs_gradient(module: nn.Module, tokens: Tensor) -> bool:
    """Whether a backward pass will come through: frozen layers on the output of frozen ones keep nothing for one."""
    return torch.is_grad_enabled() and (
        tokens.requires_grad or any(parameter.requires_grad for parameter in module.parameters())
    )


def _may_serve(tokens: Tensor) -> bool:
    """Whether there are tokens enough, of a known type, for a kernel in Triton."""
    return (
        is_eager(tokens)  # first: asked for a number of tokens, a compiler would compile small and large apart
        and tokens.device.type in ("cuda", "cpu")  # on a CPU only if asked to, as tests are
        and tokens.numel() >= LEAST_VALUES
        and tokens.dtype in TOLERANCES
    )


def is_eager(tokens: Tensor) -> bool:
    """Whether values are computed now; tracers, compilers and counters of operators are left what they understand."""
    return (
        not torch.compiler.is_compiling()
        and type(tokens) is Tensor
        and not torch.jit.is_tracing()  # type: ignore[no-untyped-call,attr-defined]  # torch leaves it untyped
        and not torch._C._len_torch_dispatch_stack()
    )


@cache
def onednn_is_right(dtype: torch.dtype) -> bool:
    """Whether oneDNN's linear layer is faster, exists on this processor and computes what PyTorch's does."""
    # On Intel's processors it gained nothing in float32, and took a tenth longer on large images.
    if dtype != torch.bfloat16 and not (dtype == torch.float32 and is_amd_processor()):
        return False
    tokens, weight, bias = _random(torch.device("cpu"), [(150, 96), (384, 96), (384,)])
    with torch.inference_mode():
        exact = functional.gelu(functional.linear(*(one.double() for one in (tokens, weight, bias))))
        try:
            found = _onednn_linear(*(one.to(dtype) for one in (tokens, weight, bias)), gelu=True)
        except (AttributeError, RuntimeError) as error:  # not an operator of this PyTorch, or not on this processor
            logger.info("linear layers are left to PyTorch's kernels, as oneDNN's failed: %s", error)
            return False
    return relative_error(found, exact) < TOLERANCES[dtype]


@cache
def is_amd_processor() -> bool:
    """Whether it says so, on Windows or Linux."""
    processors = Path("/proc/cpuinfo")
    names = processors.read_text(encoding="utf-8", errors="replace") if processors.is_file() else platform.processor()
    return "AuthenticAMD" in names


def _onednn_linear(tokens: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    mapped: Tensor = torch.ops.mkldnn._linear_pointwise(
        tokens, weight, bias, "gelu" if gelu else "none", [], "none" if gelu else ""
    )
    return mapped


def _product(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer by the kernel that is faster where gradients are computed."""
    if _onednn_serves(tokens, weight):
        return _onednn_linear(tokens, weight, bias)
    return functional.linear(tokens, weight, bias)


def _onednn_serves(tokens: Tensor, weight: Tensor) -> bool:
    """Whether its linear layer is the faster one even where gradients are computed."""
    is_float32 = linear_dtype(tokens) == tokens.dtype == weight.dtype == torch.float32
    return tokens.is_cpu and is_float32 and onednn_is_right(torch.float32)


class _Linear(torch.autograd.Function):
    """A linear layer that keeps the tokens its input was computed from, and computes it again."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, before: Before, *kept: Tensor) -> Tensor:
        """Keeps the tokens, and the parameters of the norm if there is one, as `Before` takes them."""
        ctx.save_for_backward(weight, *(kept if ctx.needs_input_grad[1] else ()))
        device = inputs.device.type
        ctx.before, ctx.autocast = before, (device, torch.get_autocast_dtype(device)) if is_cast(inputs) else None
        return _product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, *kept = ctx.saved_tensors
        wants_inputs, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        inputs_gradient = weight_gradient = bias_gradient = None
        if wants_weight:
            with torch.autocast(*ctx.autocast) if ctx.autocast else nullcontext():
                inputs = ctx.before(*kept)
            weight_gradient = rows.T @ inputs.to(gradient.dtype).flatten(0, -2)
        if wants_bias:
            bias_gradient = rows.sum(0)
        if wants_inputs:
            inputs_gradient = _product(gradient, weight.to(gradient.dtype).T)
        return inputs_gradient, weight_gradient, bias_gradient, *[None] * (len(ctx.needs_input_grad) - 3)


def _layer_norm(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor,
    epsilon: float,
    *,
    for_linear: bool = False,
    channels_first: bool = False,
) -> Tensor:
    dtype = linear_dtype(tokens) if for_linear else None
    if _has_norm_kernel(tokens, weight, channels_first):
        wanted = dtype or (torch.float32 if is_cast(tokens) else tokens.dtype)
        normalised: Tensor = _Norm.apply(tokens.contiguous(), weight, bias, epsilon, wanted, channels_first)
        return normalised
    if channels_first:
        # As rows: a norm keeps its input for the backward pass, and PyTorch's default compiler stops at a view that is
        # kept and whose strides have open sizes, since it cannot put them in order.
        rows = functional.layer_norm(tokens.flatten(0, -2), weight.shape, weight, bias, epsilon)
        return rows.view(tokens.shape).movedim(-1, 1).contiguous()
    output = functional.layer_norm(tokens, weight.shape, weight, bias, epsilon)
    return output if dtype in (None, output.dtype) else output.to(dtype)


def _has_norm_kernel(tokens: Tensor, weight: Tensor, channels_first: bool) -> bool:
    if not (_may_serve(tokens) and tokens.shape[-1] <= MOST_CHANNELS):
        return False
    # Autocast computes in float32 whatever the types are, and without it PyTorch wants them equal.
    if not (is_cast(tokens) or tokens.dtype == weight.dtype):
        return False
    backward = torch.is_grad_enabled() and (tokens.requires_grad or weight.requires_grad)
    return kernel_is_right(errors_of_norm, tokens.device, tokens.dtype, tokens.shape[-1], backward, channels_first)


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
    if tokens.dtype == torch.float64 or not is_cast(tokens):
        return tokens.dtype
    return torch.get_autocast_dtype(tokens.device.type)


def is_cast(tokens: Tensor) -> bool:
    """Whether autocast is on where the tokens are."""
    device = tokens.device.type
    # Compilers of PyTorch before 2.12 stop at this question, whose answer is yes on all of their devices.
    may_cast = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device)
    return may_cast and torch.is_autocast_enabled(device)
