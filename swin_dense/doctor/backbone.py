"""The backbone on a device, eager and compiled, against itself in float64 on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.backbones import SwinTransformer, create_backbone
from swin_dense.backbones.attention import LARGEST_CALL
from swin_dense.backbones.gridded_attention import TOLERANCES as KERNEL_TOLERANCES
from swin_dense.backbones.rows import errors_of_mlp, errors_of_norm
from swin_dense.backbones.windows import plan_cache
from swin_dense.doctor.device import PRECISIONS, Measured, Measurement, difference

WHOLE = "bfloat16 weights"
"""The model itself in bfloat16, without autocast."""

TOLERANCES = {"float32": 1e-3, "float16": 4e-2, "bfloat16": 2.5e-1, WHOLE: 5e-1}
"""Of the norm of a parameter's gradient, which sums what has come through two dozen blocks and cancels for the most
part; maps are a tenth as far from the exact ones."""

SIZES = {"even": (2, 96, 128), "odd": (1, 75, 117)}
"""Images, height and width: whole patches and even maps, or padding everywhere."""

COMPILED_SIZES = ((2, 232, 264), (2, 243, 301))
"""More than one image, and more than one window in each stage: those are compiled apart."""


def backbone_checks(device: torch.device) -> Iterator[tuple[str, Measurement]]:
    """Maps and gradients of each variant, many windows, and, on CUDA, what waits for the device."""
    for variant in ("swin_tiny", "swin_base_384", "swinv2_tiny"):
        for precision in (*PRECISIONS, WHOLE):
            for size in SIZES:
                measure = partial(_measure, variant, device, precision, SIZES[size])
                yield f"backbone: {variant}, {size} size, {precision}", measure
    yield f"backbone: more than {LARGEST_CALL:,} windows", partial(_measure_many_windows, device)
    if device.type == "cuda":
        for precision in PRECISIONS:
            yield f"backbone: kernels of norms and MLPs, {precision}", partial(_measure_rows, device, precision)
            yield f"backbone: no wait for the device, {precision}", partial(_measure_waiting, device, precision)


def compiled_checks(device: torch.device) -> Iterator[tuple[str, Measurement]]:
    """Maps and gradients of compiled backbones: one precision at several sizes, the others at one."""
    cases = (("swin_nano", "float32", 1), ("swin_nano", "float16", 1), ("swin_tiny", "bfloat16", 2))
    for variant, precision, count in cases:
        measure = partial(_measure_compiled, variant, device, precision, COMPILED_SIZES[:count])
        yield f"compiled: {variant}, {'one size' if count == 1 else 'several sizes'}, {precision}", measure


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """What computes in a precision; float32, and weights of another type, need nothing."""
    return nullcontext() if precision in ("float32", WHOLE) else torch.autocast(device.type, PRECISIONS[precision])


def _measure(variant: str, device: torch.device, precision: str, size: tuple[int, int, int]) -> Measured:
    return _compare(copy.deepcopy(_backbone(variant)).to(device), variant, precision, size)


def _measure_compiled(
    variant: str, device: torch.device, precision: str, sizes: Sequence[tuple[int, int, int]]
) -> Measured:
    backbone = copy.deepcopy(_backbone(variant)).to(device)
    torch.compiler.reset()
    backbone.compile(dynamic=len(sizes) > 1)
    return max((_compare(backbone, variant, precision, size) for size in sizes), key=lambda one: one.difference)


def _compare(backbone: SwinTransformer, variant: str, precision: str, size: tuple[int, int, int]) -> Measured:
    expected = _expected(variant, size)
    images = _images(size).to(next(backbone.parameters()).device)
    if precision == WHOLE:
        backbone, images = backbone.bfloat16(), images.bfloat16()
    with autocast(images.device, precision):
        maps, gradients = _maps_and_gradients(backbone, images)
    count = len(maps)
    of_maps, largest = difference(maps, expected[:count]), difference(gradients, expected[count:])
    pairs = zip(gradients, expected[count:], strict=True)
    of_gradients = max(float((one.cpu().float() - other).norm() / other.norm()) for one, other in pairs)
    detail = f"maps {of_maps:.2g}, gradients {of_gradients:.2g} in the norm and {largest:.2g} in the largest value"
    return Measured(max(10 * of_maps, of_gradients), TOLERANCES[precision], detail)


def _measure_many_windows(device: torch.device) -> Measured:
    """One stage with windows of 2 x 2 tokens, more of them than one call of a kernel takes."""
    torch.manual_seed(0)
    backbone = create_backbone(
        "swin_nano", depths=(2,), num_heads=(2,), out_indices=(0,), window_size=2, embed_dim=16, drop_path_rate=0.0
    )
    side = 2 * int(LARGEST_CALL**0.5 + 2)  # in tokens
    images = torch.randn(1, 3, 4 * side, 4 * side)
    maps, gradients = _maps_and_gradients(backbone, images)
    found, found_gradients = _maps_and_gradients(copy.deepcopy(backbone).to(device), images.to(device))
    measured = difference([*found, *found_gradients], [*maps, *gradients])
    return Measured(measured, TOLERANCES["float32"], f"{(side // 2) ** 2:,} windows")


def _measure_rows(device: torch.device, precision: str) -> Measured:
    """The kernels that serve for many tokens, whose images would take long on a CPU."""
    dtype = PRECISIONS[precision]
    errors = [
        error
        for channels in (96, 384, 1536)
        for channels_first in (False, True)
        for error in errors_of_norm(device, dtype, channels, True, channels_first)
    ]
    if dtype != torch.float32:  # in which they are not used
        errors += [*errors_of_mlp(device, dtype, dtype, 96), *errors_of_mlp(device, dtype, torch.float32, 128)]
    return Measured(max(errors), KERNEL_TOLERANCES[dtype])


def _measure_waiting(device: torch.device, precision: str) -> Measured:
    """Forward and backward with windows and sizes that are new, then again; a wait raises an error."""
    torch.manual_seed(0)
    known, backbone = (create_backbone("swin_nano", window_size=side).to(device) for side in (4, 5))
    batches = [torch.randn(2, 3, *size, device=device) for size in ((90, 90), (75, 117))]
    for images in batches:  # libraries wait when they are used for the first time
        with autocast(device, precision):
            _maps_and_gradients(known, images)
    plan_cache.clear()
    torch.cuda.synchronize(device)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for images in batches * 2:
            with autocast(device, precision):
                _maps_and_gradients(backbone, images)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return Measured(0.0, 0.0)


@cache
def _backbone(variant: str) -> SwinTransformer:
    """A backbone with larger biases than those it begins with, in evaluation mode."""
    torch.manual_seed(0)
    backbone = create_backbone(variant, drop_path_rate=0.0).eval()
    for name, parameter in backbone.named_parameters():
        if name.endswith(("bias", "bias_table")):
            nn.init.normal_(parameter, std=0.2)
        elif not parameter.any():  # new norms of version 2 leave the blocks out
            nn.init.ones_(parameter)
    return backbone


def _images(size: tuple[int, int, int]) -> Tensor:
    batch, height, width = size
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@cache
def _expected(variant: str, size: tuple[int, int, int]) -> list[Tensor]:
    """Maps and gradients in float64 on the CPU, kept as float32."""
    backbone = copy.deepcopy(_backbone(variant)).double()
    maps, gradients = _maps_and_gradients(backbone, _images(size).double())
    return [one.float() for one in (*maps, *gradients)]


def _maps_and_gradients(backbone: nn.Module, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The maps, and the gradients of the images and of every parameter, of a weighted sum of all values."""
    images = images.detach().requires_grad_()
    maps = backbone(images)
    weights = ((torch.arange(one.numel(), device=one.device) % 7 - 3) / one.numel() ** 0.5 for one in maps)
    total = torch.stack([(one.flatten() * weight).sum() for one, weight in zip(maps, weights, strict=True)]).sum()
    inputs = [images, *(one for one in backbone.parameters() if one.requires_grad)]
    return [one.detach() for one in maps], list(torch.autograd.grad(total, inputs))
