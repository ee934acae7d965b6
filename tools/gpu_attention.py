"""Checks and times the window attention kernel on a CUDA GPU: `python tools/gpu_attention.py`, about a minute.

A shape is a stage of a backbone on one batch. First the kernel against float64, forward and backward; then its launches
against each other; then whole attention, from normalised tokens to the projection: with PyTorch's fused kernels, which
need permutation, padding and its removal, and with this one. Times are medians in milliseconds.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from swin_dense.backbones import triton_attention
from swin_dense.backbones.attention import WindowAttention
from swin_dense.backbones.gridded_attention import gridded_attention, plain_attention
from swin_dense.backbones.triton_attention import Launch
from swin_dense.backbones.windows import window_plan

TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
DIM = 32
"""Channels of a head."""


class Shape(NamedTuple):
    """A stage: images, grid, heads, side of a window."""

    name: str
    batch: int
    height: int
    width: int
    heads: int
    side: int = 7


SHAPES = [
    *(Shape(f"T 64x224x224 stage {i + 1}", 64, 56 >> i, 56 >> i, 3 << i) for i in range(4)),
    *(Shape(f"T 2x800x1344 stage {i + 1}", 2, -(-200 >> i), -(-336 >> i), 3 << i) for i in range(4)),
    *(Shape(f"T 2x799x1201 stage {i + 1}", 2, -(-200 >> i), -(-301 >> i), 3 << i) for i in range(4)),
    *(Shape(f"B-384 16x384x384 stage {i + 1}", 16, 96 >> i, 96 >> i, 4 << i, 12) for i in range(4)),
    Shape("B-384 2x800x1344 stage 1", 2, 200, 336, 4, 12),
]
SWEPT = [SHAPES[0], SHAPES[4], SHAPES[12]]
CHECKED = [
    *((shape, torch.bfloat16, shift) for shape in SHAPES for shift in (0, shape.side // 2)),
    *((SHAPES[i], dtype, SHAPES[i].side // 2) for i in (7, 15) for dtype in (torch.float16, torch.float32)),
    (Shape("70,000 windows", 70_000, 7, 7, 1), torch.bfloat16, 0),
]


def forward_launches(shape: Shape) -> list[Launch]:
    """Launches worth trying."""
    windows = (1, 2, 4, 8, 16)
    if shape.side**2 <= triton_attention.LARGEST_BLOCK:
        return [Launch(4, stages, count) for stages in (1, 2, 3) for count in windows]
    return [Launch(4, stages, count, keys) for stages, keys in ((1, 32), (2, 32), (1, 64)) for count in windows]


def backward_launches(shape: Shape) -> list[Launch]:
    """Launches worth trying."""
    return [Launch(warps, stages, count) for warps, stages in ((4, 1), (4, 2), (8, 1)) for count in (4, 8, 16, 32)]


def main() -> None:
    """Runs all parts and prints a table of each."""
    print(torch.cuda.get_device_name(), torch.__version__, "triton", triton.__version__)
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        pool.starmap(compile_kernels, variants(), chunksize=1)
    print("\nrelative errors against float64: output, gradients of qkv, padding and bias")
    for case in CHECKED:
        check(*case)
    print("\nkernel alone, bfloat16, shifted: ms (warps, stages, windows a program, keys a block)")
    for shape in SWEPT:
        sweep(shape)
    print(f"\nwhole attention, shifted{'forward':>31}{'forward and backward':>31}")
    print(f"{'':36} fused   kernel   gain     fused   kernel   gain")
    for shape in SHAPES:
        compare(shape, torch.bfloat16)
    for shape in SWEPT:
        compare(shape, torch.float16)


def variants() -> list[tuple[Shape, torch.dtype, int, Launch | None, Launch | None]]:
    """What `main` compiles, each once: nothing but these depends on sizes."""
    one_image = {}
    for shape, dtype, shift in CHECKED:
        padded = bool(shape.height % shape.side or shape.width % shape.side)
        one_image[shape.side, padded, dtype, shift] = shape._replace(batch=1), dtype, shift, None, None
    found = list(one_image.values())
    for shape in SWEPT:
        launches = itertools.zip_longest(forward_launches(shape), backward_launches(shape))
        for pair in {tuple(launch and launch._replace(windows=8) for launch in pair) for pair in launches}:
            found.append((shape._replace(batch=1), torch.bfloat16, shape.side // 2, *pair))
    return found


def compile_kernels(
    shape: Shape, dtype: torch.dtype, shift: int, forward: Launch | None, backward: Launch | None
) -> None:
    """Runs both kernels once, which leaves them in Triton's cache."""
    inputs, sides = attention_inputs(shape, dtype), windows_of(shape, shift)
    try:
        output, logsumexp = triton_attention.forward(*inputs, *sides, forward)
        triton_attention.backward(output, *inputs, output, logsumexp, *sides, backward)
    except triton.runtime.errors.OutOfResources:
        pass  # this launch is not for this GPU


def check(shape: Shape, dtype: torch.dtype, shift: int) -> None:
    """Prints relative errors of the output and of the gradients."""
    inputs, sides = attention_inputs(shape, dtype), windows_of(shape, shift)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    found, wanted = gridded_attention(*inputs, *sides), plain_attention(*exact, *sides)
    weights = torch.randn_like(found)
    all_found = [found, *torch.autograd.grad(found, inputs, weights)]
    all_wanted = [wanted, *torch.autograd.grad(wanted, exact, weights.double())]
    errors = [relative_error(*pair) for pair in zip(all_found, all_wanted, strict=True)]
    verdict = "ok" if max(errors) < TOLERANCES[dtype] else "WRONG"
    print(f"  {verdict:5} {shape.name:26} {str(dtype)[6:]:8} shift {shift}", *(f"{e:.1e}" for e in errors))


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over that of what is wanted, or over 1 where nothing is, as for padding that is unused."""
    norm = wanted.norm().item()
    return ((found.double() - wanted).norm() / (norm if norm > 1e-9 else 1.0)).item()


def attention_inputs(shape: Shape, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Random qkv, padding and bias, which want gradients."""
    qkv = torch.randn(shape.batch, shape.height, shape.width, 3, shape.heads, DIM, device="cuda").to(dtype)
    padding = torch.randn(3, shape.heads, DIM, device="cuda").to(dtype)
    bias = torch.randn(shape.heads, shape.side**2, shape.side**2, device="cuda")
    return qkv.requires_grad_(), padding.requires_grad_(), bias.requires_grad_()


def windows_of(shape: Shape, shift: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Window and shift as the kernel takes them."""
    return (shape.side, shape.side), (shift, shift)


def sweep(shape: Shape) -> None:
    """Prints the fastest launches, and how fast they move the bytes that must be read and written at least."""
    sides = windows_of(shape, shape.side // 2)
    inputs = [x.detach() for x in attention_inputs(shape, torch.bfloat16)]
    output, logsumexp = triton_attention.forward(*inputs, *sides)
    gradient = torch.randn_like(output)

    def forward(launch: Launch) -> None:
        triton_attention.forward(*inputs, *sides, launch)

    def backward(launch: Launch) -> None:
        triton_attention.backward(gradient, *inputs, output, logsumexp, *sides, launch)

    for run, launches, passes in ((forward, forward_launches(shape), 4), (backward, backward_launches(shape), 7)):
        times = {}
        for launch in launches:
            try:
                times[launch] = milliseconds(lambda run=run, launch=launch: run(launch))
            except triton.runtime.errors.OutOfResources:
                continue
        best = sorted(times, key=times.__getitem__)
        listed = " ".join(f"{times[x]:.3f}({x.warps},{x.stages},{x.windows},{x.keys})" for x in best[:5])
        speed = passes * output.nbytes / times[best[0]] / 1e9
        print(f"  {shape.name:26} {run.__name__:8} {listed} worst {times[best[-1]]:.3f}; {speed:.2f} TB/s")


def compare(shape: Shape, dtype: torch.dtype) -> None:
    """Prints the times of whole attention with PyTorch's kernels and with this one."""
    window, shift = windows_of(shape, shape.side // 2)
    attention = WindowAttention(shape.heads * DIM, shape.heads, window).to("cuda", dtype)
    size = shape.batch, shape.height, shape.width, shape.heads * DIM
    grid = torch.randn(size, device="cuda", dtype=dtype, requires_grad=True)
    plan = window_plan(grid, window, shift)
    partition = plan.partitions[1]

    def fused() -> Tensor:
        rows = plan.shift(grid.flatten(0, 2))
        return partition.take(attention(partition.fill(rows), partition.mask))

    def kernel() -> Tensor:
        return attention.on_grid(grid, window, shift)

    times = []
    with torch.no_grad():
        times += [milliseconds(fused), milliseconds(kernel)]
    wanted = [grid, *attention.parameters()]
    for forward in (fused, kernel):
        gradient = torch.randn_like(forward())
        times.append(milliseconds(lambda f=forward, g=gradient: torch.autograd.grad(f(), wanted, g)))
    f1, k1, f2, k2 = times
    name = f"{shape.name} {str(dtype)[6:]}"
    print(f"  {name:34} {f1:7.3f}  {k1:7.3f} {f1 / k1:5.2f}x   {f2:7.3f}  {k2:7.3f} {f2 / k2:5.2f}x")


def milliseconds(call: Callable[[], object]) -> float:
    """Median time of a call."""
    return float(triton.testing.do_bench(call, warmup=5, rep=20, return_mode="median"))


if __name__ == "__main__":
    main()
