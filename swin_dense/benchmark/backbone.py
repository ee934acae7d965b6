"""Time and memory of the backbone beside its peers, each in a process of its own, in turns.

A cell of the benchmark is a variant, a shape, a precision and a mode, eager or compiled; all contestants meet in it. So
do "products": the matrix products of the forward (and backward) pass alone, at their real shapes, which nothing can
beat. Before anything is timed, each peer's random weights are loaded into ours and the maps are compared.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch

from swin_dense.backbones import VARIANTS
from swin_dense.benchmark.cells import BackboneSettings, Cell, Shape
from swin_dense.benchmark.entrant import LARGE_PRODUCT, PRODUCTS, Entrant
from swin_dense.benchmark.peers import OURS, installed_peers, products
from swin_dense.benchmark.processes import RemoteContestant
from swin_dense.benchmark.timing import Spread, TimeLimit, log, take_turns
from swin_dense.devices import chosen_device
from swin_dense.errors import BenchmarkError

GRACE = 60.0
"""Seconds that a cell has at least, once its contestants are ready."""

TOLERANCE = {"cpu": 1e-5, "cuda": 1e-4}
"""Largest relative difference between maps in float32; kernels of GPUs differ more."""


@dataclass
class _Arena:
    """The processes of all contestants; one that failed is restarted when it is needed again."""

    device: torch.device
    threads: int | None
    running: dict[str, RemoteContestant] = field(default_factory=dict)

    def __getitem__(self, name: str) -> RemoteContestant:
        if name not in self.running:
            self.running[name] = RemoteContestant(Entrant, name, str(self.device), self.threads)
        return self.running[name]

    def together(self, names: Sequence[str], limit: TimeLimit, method: str, *arguments: Any) -> dict[str, Any]:
        """Has all do something side by side; answers, or what went wrong, by name."""
        for name in names:
            self[name].ask(method, *arguments)
        return {name: self._answer(name, limit) for name in names}

    def in_turn(self, names: Sequence[str], limit: TimeLimit, method: str, *arguments: Any) -> dict[str, Any]:
        """Has one after the other do something; answers, or what went wrong, by name."""
        found: dict[str, Any] = {}
        for name in names:
            found |= self.together([name], limit, method, *arguments)
        return found

    def _answer(self, name: str, limit: TimeLimit) -> Any:
        try:
            return self[name].receive(limit.left())
        except BenchmarkError as error:
            if not _out_of_memory(error):  # after which a process goes on as before
                self.end(name)
            return error

    def end(self, name: str) -> None:
        self.running.pop(name).close()


def benchmark_backbone(settings: BackboneSettings) -> dict[str, Any]:
    """Measures our backbone and its peers.

    Args:
        settings: What is measured, and how long that may take.

    Returns:
        A record ready for JSON: `cells` holds the results of each cell by contestant, `not_measured` those for which no
        time was left, `left_out` the peers that are not there, or for a variant those whose maps differ from ours,
        `checks` how far they differ, `large_product_tflops` what the GPU reaches.

    Raises:
        ConfigError: The device cannot be used.

    Example:
        >>> from swin_dense.benchmark.cells import BackboneSettings
        >>> [str(cell) for cell in BackboneSettings(shapes=["8x224x224"], precisions=["fp32"]).cells()]
        ['swin_tiny 8x224x224 fp32 inference, eager', 'swin_tiny 8x224x224 fp32 training, eager']
    """
    limit, device = TimeLimit(settings.seconds_limit), chosen_device(settings.device)
    peers, left_out = installed_peers(settings.peers)
    arena = _Arena(device, settings.threads)
    record: dict[str, Any] = {
        "benchmark": "backbone",
        "device": describe(device),
        "settings": asdict(replace(settings, device=str(device))),
        "left_out": left_out,
        "checks": [],
        "large_product_tflops": {},
        "cells": [],
        "not_measured": [],
    }
    try:
        for name in (OURS, PRODUCTS, *peers):  # so that all import what they need side by side
            arena[name].ask("release")
        for name in (OURS, PRODUCTS, *peers):
            arena[name].receive()
        if device.type == "cuda":
            for precision in dict.fromkeys(("bf16", *settings.precisions)):
                reached = arena[PRODUCTS].call("large_product", precision)
                record["large_product_tflops"][precision] = reached
                log(f"product of {LARGE_PRODUCT} x {LARGE_PRODUCT} matrices, {precision}: {reached:.0f} TFLOP/s")
        equal: dict[str, list[str]] = {}  # peers by variant
        for cell in settings.cells():
            if limit.left() == 0:
                record["not_measured"].append(cell._asdict())
                continue
            if cell.variant not in equal:
                equal[cell.variant] = _equal_peers(arena, cell.variant, limit, peers, record)
            result = _measure(arena, cell, [OURS, *equal[cell.variant], PRODUCTS], settings, limit)
            _compare(result, record["large_product_tflops"].get("bf16"))
            record["cells"].append(result)
            log("\n".join(lines(result)))
    finally:
        for name in list(arena.running):
            arena.end(name)
    record["seconds"] = limit.spent()
    return record


def _equal_peers(
    arena: _Arena, variant: str, limit: TimeLimit, peers: Sequence[str], record: dict[str, Any]
) -> list[str]:
    """The peers whose maps equal ours; one that differs, or has no such variant, is left out of its cells."""
    equal = []
    for peer, found in arena.together(peers, limit, "check", variant).items():
        failed = isinstance(found, BenchmarkError)
        record["checks"].append({"peer": peer, "variant": variant, "difference": None if failed else found})
        if failed or not found <= TOLERANCE.get(arena.device.type, TOLERANCE["cuda"]):
            reason = str(found) if failed else f"its maps differ from ours by {found:.1e}"
            record["left_out"][f"{peer}, {variant}"] = reason
            log(f"{peer} is left out: {variant}: {reason}")
        else:
            equal.append(peer)
            log(f"{variant}: the maps of {peer} differ from ours by {found:.1e}")
    return equal


def _measure(
    arena: _Arena, cell: Cell, names: Sequence[str], settings: BackboneSettings, limit: TimeLimit
) -> dict[str, Any]:
    """Times all contestants in turn; a contestant that fails says so in place of its times."""
    # Side by side, models are compiled and moved in less time; those that lack memory then get ready alone.
    begin = arena.together if cell.compiled or arena.device.type == "cuda" else arena.in_turn
    waits = [seconds for seconds in (limit.left(), settings.compile_limit) if seconds is not None]
    patience = TimeLimit(min(waits)) if cell.compiled and waits else limit
    first: dict[str, Any] = begin(names, patience, "prepare", cell, settings.compile_mode)
    again = [name for name, found in first.items() if isinstance(found, BenchmarkError) and _out_of_memory(found)]
    if begin == arena.together:
        first |= arena.in_turn(again, limit, "prepare", cell, settings.compile_mode)
    failed = {name: found for name, found in first.items() if isinstance(found, BenchmarkError)}
    # What has got ready is measured, even if the time is over by now.
    limit = TimeLimit(None if (left := limit.left()) is None else max(left, GRACE))
    memory = arena.in_turn([name for name in names if name not in failed], limit, "settle")
    failed |= {name: found for name, found in memory.items() if isinstance(found, BenchmarkError)}

    def turn(name: str) -> float:
        found = math.nan if name in failed else arena.in_turn([name], limit, "round")[name]
        if isinstance(found, BenchmarkError):
            failed[name] = found
            return math.nan
        return float(found)

    ready = [name for name in names if name not in failed]
    seconds = take_turns({name: partial(turn, name) for name in ready}, settings.repeats)
    shape = Shape.parse(cell.shape)
    images = shape.batch * len(shape.sizes)
    macs = sum(math.prod(one) for size in shape.sizes for one in products(VARIANTS[cell.variant], shape.batch, size))
    results: dict[str, Any] = {name: {"failed": str(error)} for name, error in failed.items()}
    for name in (name for name in ready if name not in failed):
        spread = Spread.of(seconds[name])
        results[name] = {
            **spread.milliseconds("_ms"),
            "images_per_second": images / spread.median,
            "tflops": 2 * macs * (3 if cell.mode == "training" else 1) / spread.median / 1e12,
            "first_call_seconds": first[name],
            **memory[name],
        }
    arena.in_turn([name for name in ready if name not in failed], TimeLimit(60), "release")
    return {**cell._asdict(), "gmacs": macs / 1e9, "contestants": {name: results[name] for name in names}}


def _compare(result: dict[str, Any], large_product: float | None) -> None:
    """Adds how ours stands beside the best peer, the products alone and what the GPU reaches."""
    done = {name: one["median_ms"] for name, one in result["contestants"].items() if "median_ms" in one}
    for name in done:
        one = result["contestants"][name]
        one["of_large_product"] = None if large_product is None else one["tflops"] / large_product
        one["of_products_alone"] = done[PRODUCTS] / done[name] if PRODUCTS in done else None
    rivals = {name: median for name, median in done.items() if name not in (OURS, PRODUCTS)}
    best = min(rivals, key=lambda name: rivals[name], default=None)
    result["best_peer"] = best
    result["speedup"] = done[best] / done[OURS] if best is not None and OURS in done else None


def _out_of_memory(error: BenchmarkError) -> bool:
    return "outofmemory" in str(error).lower().replace(" ", "")


def lines(result: dict[str, Any]) -> Iterator[str]:
    """A cell as text."""
    yield str(Cell(*(result[name] for name in Cell._fields)))
    for name, one in result["contestants"].items():
        if "failed" in one:
            yield f"  {name:<12} failed: {one['failed']}"
            continue
        memory = "".join(f"  {one[kind]:.1f} {kind[-3:].title()}" for kind in one if kind.endswith(("_gib", "_mib")))
        spread = f"{one['median_ms']:9.2f} ms ({one['lowest_ms']:.2f} to {one['highest_ms']:.2f})"
        yield (
            f"  {name:<12} {spread}  {one['images_per_second']:9.1f} images/s  {one['tflops']:7.2f} TFLOP/s"
            f"{memory}  first call {one['first_call_seconds']:.1f} s"
        )
    if result["speedup"] is not None:
        yield f"  ours is {result['speedup']:.2f} times as fast as {result['best_peer']}"


def describe(device: torch.device) -> dict[str, Any]:
    """What is computed on, and with which versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"type": device.type, "name": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
