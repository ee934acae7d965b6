"""One contestant of the benchmark of backbones: built, compiled, run, timed and measured in its own process."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.backbones import VARIANTS
from swin_dense.benchmark.cells import PRECISIONS, Cell, Precision, Shape
from swin_dense.benchmark.peers import OURS, build, checked_size, difference, products
from swin_dense.benchmark.timing import Spread, calls_per_round, seconds_per_call

PRODUCTS = "products"
"""The contestant that computes the matrix products alone."""

LARGE_PRODUCT = 8192
"""Rows and columns of the matrices whose product says what a GPU can reach."""

ROUND_SECONDS = 0.1
"""What a round lasts at least, unless a single call takes longer."""

MIB, GIB = 2**20, 2**30


class Entrant:
    """One contestant, in its own process."""

    def __init__(self, name: str, device: str, threads: int | None) -> None:
        """Takes the name of a peer, `OURS` or `PRODUCTS`."""
        self.name = name
        self.device = torch.device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        if self.device.type == "cuda" and self.device.index is not None:  # "cuda" is the current one
            torch.cuda.set_device(self.device)
        torch.manual_seed(0)
        self.step: Callable[[], object] = _nothing
        self.model: nn.Module | None = None
        self.compiled = False
        self.calls = 1

    def check(self, variant: str) -> float:
        """How far the maps are from ours with the same weights, in float32."""
        _allow_tf32(False)
        with self.device:
            peer = build(self.name, variant, [checked_size(variant)])
        found = difference(peer, variant, self.device)
        del peer
        self._free()
        return found

    def prepare(self, cell: Cell, compile_mode: str) -> float:
        """Builds, compiles and runs once; returns the seconds of the first call."""
        self.release()
        shape, precision = Shape.parse(cell.shape), PRECISIONS[cell.precision]
        _allow_tf32(precision.tf32)
        with self.device:
            if self.name == PRODUCTS:
                self.step = _product_step(cell, shape, precision.dtype)
            else:
                self.model, self.step = self._model_step(cell, shape, precision, compile_mode)
        seconds = seconds_per_call(self.step, 1, torch.device("cpu"))
        self._synchronise()
        self._free()
        return seconds

    def settle(self) -> dict[str, float]:
        """Warms up and fixes the calls of a round; returns the memory that a step takes, where that can be told."""
        memory: dict[str, float] = {}
        on_cuda = self.device.type == "cuda"
        if on_cuda:
            torch.cuda.reset_peak_memory_stats()
        self.step()
        if on_cuda:
            self.step()
            memory["peak_memory_gib"] = torch.cuda.max_memory_allocated() / GIB
        elif self.model is not None and self.model.training:
            memory["kept_for_backward_mib"] = _kept_for_backward(self.model, self.step) / MIB
        self.calls = calls_per_round(seconds_per_call(self.step, 1, self.device), ROUND_SECONDS)
        self._free()
        return memory

    def round(self) -> float:
        """Seconds of a call; on a GPU after one that is not timed."""
        if self.device.type == "cuda":
            self.step()
        seconds = seconds_per_call(self.step, self.calls, self.device)
        self._free()
        return seconds

    def release(self) -> None:
        """Forgets the model."""
        self.step, self.model = _nothing, None
        if self.compiled:
            torch._dynamo.reset()
        self._free()

    def large_product(self, precision: str) -> float:
        """TFLOP/s of the product of two large matrices."""
        dtype = PRECISIONS[precision].dtype
        _allow_tf32(PRECISIONS[precision].tf32)
        one, other = (torch.randn(LARGE_PRODUCT, LARGE_PRODUCT, device=self.device).to(dtype) for _ in range(2))

        def multiply() -> Tensor:
            return one @ other

        multiply()
        seconds = Spread.of([seconds_per_call(multiply, 10, self.device) for _ in range(5)]).median
        return 2 * LARGE_PRODUCT**3 / seconds / 1e12

    def _model_step(
        self, cell: Cell, shape: Shape, precision: Precision, compile_mode: str
    ) -> tuple[nn.Module, Callable[[], object]]:
        contestant = build(self.name, cell.variant, shape.sizes)
        model = contestant.model.to(self.device)
        model.train(cell.mode == "training")
        run: Any = contestant.maps
        if precision.whole:
            model.to(precision.dtype)
        if cell.compiled:
            self.compiled = True
            options: dict[str, Any] = {"dynamic": len(shape.sizes) > 1, "mode": compile_mode}
            if self.name == OURS:  # it compiles itself, and once for all sizes
                model.compile(**options)
            else:
                run = torch.compile(run, **options)
        dtype = precision.dtype if precision.whole else torch.float32
        batches = [torch.randn(shape.batch, 3, *size).to(dtype) for size in shape.sizes]

        def casts() -> AbstractContextManager[object]:
            return nullcontext() if precision.whole else torch.autocast(self.device.type, precision.dtype)

        def infer() -> None:
            with torch.inference_mode(), casts():
                for images in batches:
                    run(images)

        gradients: list[list[Tensor]] = []

        def train() -> None:
            model.zero_grad(set_to_none=True)
            for number, images in enumerate(batches):
                with casts():
                    maps = run(images)
                if number == len(gradients):  # of the first call
                    gradients.append([torch.randn_like(one) for one in maps])
                torch.autograd.backward(maps, gradients[number])

        return model, train if cell.mode == "training" else infer

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _free(self) -> None:
        """Leaves the memory to the others, whose turn it is."""
        if self.model is not None:
            self.model.zero_grad(set_to_none=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _nothing() -> None:
    """What there is to do before anything was prepared."""


def _allow_tf32(allowed: bool) -> None:
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def _product_step(cell: Cell, shape: Shape, dtype: torch.dtype) -> Callable[[], object]:
    """All products of a step; in training also those of the two gradients of each."""
    found = [one for size in shape.sizes for one in products(VARIANTS[cell.variant], shape.batch, size)]
    operands = {
        (b, m, k, n): [torch.randn(*((b,) if b > 1 else ()), *sides).to(dtype) for sides in ((m, k), (k, n), (m, n))]
        for b, m, k, n in dict.fromkeys(found)
    }

    def step() -> None:
        for one in found:
            left, right, result = operands[one]
            torch.matmul(left, right, out=result)
            if cell.mode == "training":
                torch.matmul(result, right.mT)
                torch.matmul(left.mT, result)

    return step


def _kept_for_backward(model: nn.Module, step: Callable[[], object]) -> int:
    """Bytes of activations that autograd keeps, counted tensor by tensor, without parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        step()
    return sum(kept.values())
