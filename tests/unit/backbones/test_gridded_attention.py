"""The kernel equals plain attention in float64, forward and backward, and serves where it was seen right alone.

A whole backbone with it is in `test_rows`.

Triton decides when it is imported whether its kernels run on the CPU, so all cases are computed in a process of their
own, by this file as a script.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from packaging.version import Version

from swin_dense.backbones import gridded_attention
from swin_dense.errors import ConfigError

try:
    if Version(importlib.metadata.version("triton")) < Version("3.7"):
        pytest.skip("before version 3.7, Triton's interpreter fails with NumPy 2.4 or newer", allow_module_level=True)
except importlib.metadata.PackageNotFoundError:
    pytest.skip("Triton is not installed", allow_module_level=True)


class Case(NamedTuple):
    grid: tuple[int, int, int]  # images, height, width
    heads: int
    dim: int
    window: tuple[int, int]
    shift: tuple[int, int]
    dtype: torch.dtype
    programs: int  # that are wanted: few take several windows each


CASES = {
    "one window a program": Case((1, 7, 14), 1, 32, (7, 7), (0, 0), torch.float32, 10**6),
    "several windows a program": Case((2, 7, 14), 1, 32, (7, 7), (0, 0), torch.float32, 1),
    "padding": Case((2, 9, 13), 2, 16, (7, 7), (0, 0), torch.float32, 4),
    "shift": Case((1, 14, 14), 1, 32, (7, 7), (3, 3), torch.float32, 1),
    "shift and padding": Case((2, 9, 7), 2, 16, (4, 4), (2, 2), torch.float32, 4),
    "shift along one side": Case((1, 8, 9), 1, 32, (4, 5), (2, 0), torch.float32, 1),
    "less than a window": Case((3, 1, 2), 1, 64, (7, 7), (3, 3), torch.float32, 1),
    "blocks of queries and keys": Case((2, 13, 12), 1, 16, (12, 12), (6, 6), torch.float32, 1),
    "float16": Case((1, 10, 9), 2, 32, (7, 7), (3, 3), torch.float16, 1),
    "bfloat16": Case((1, 10, 9), 2, 32, (7, 7), (3, 3), torch.bfloat16, 1),
    "blocks in bfloat16": Case((1, 10, 9), 1, 32, (9, 9), (4, 4), torch.bfloat16, 1),
}
TOLERANCES = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}


def errors_of(case: Case) -> list[float]:
    """Relative errors of the output and of the gradients of qkv, padding and bias."""
    from swin_dense.backbones import triton_attention

    triton_attention.PROGRAMS = case.programs
    generator = torch.Generator().manual_seed(0)
    length = case.window[0] * case.window[1]
    shapes = (*case.grid, 3, case.heads, case.dim), (3, case.heads, case.dim), (case.heads, length, length)
    exact = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    rounded = [x.to(torch.float32 if x is exact[2] else case.dtype).requires_grad_() for x in exact]
    exact = [x.detach().double().requires_grad_() for x in rounded]
    found = gridded_attention.gridded_attention(*rounded, case.window, case.shift)
    weights = torch.randn(found.shape, generator=generator).to(case.dtype)
    found = [found, *torch.autograd.grad(found, rounded, weights)]
    wanted = gridded_attention.plain_attention(*exact, case.window, case.shift)
    wanted = [wanted, *torch.autograd.grad(wanted, exact, weights.double())]
    assert [x.dtype for x in found] == [case.dtype, *(x.dtype for x in rounded)]
    errors = []
    for ours, theirs in zip(found, wanted, strict=True):
        norm = float(theirs.detach().norm())
        # Where there is no padding, its gradient is zero, in float64 to rounding.
        errors.append(float((ours.double() - theirs).detach().norm()) / (norm if norm > 1e-9 else 1.0))
    return errors


@pytest.fixture(scope="module")
def errors() -> dict[str, list[float]]:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
def test_equals_plain_attention(name: str, errors: dict[str, list[float]]) -> None:
    assert max(errors[name]) < TOLERANCES[CASES[name].dtype], errors[name]


def served(monkeypatch: pytest.MonkeyPatch, mode: str | None, errors: Sequence[float] | Exception) -> bool:
    """Whether the kernel serves on a pretended GPU where the check finds these errors, or fails."""

    def check(*_: object) -> list[float]:
        if isinstance(errors, Exception):
            raise errors
        return list(errors)

    monkeypatch.setattr(gridded_attention, "errors_of_attention", check)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv(gridded_attention.VARIABLE, raising=False)
    if mode is not None:
        monkeypatch.setenv(gridded_attention.VARIABLE, mode)
    gridded_attention._is_right.cache_clear()
    return gridded_attention.kernel_serves(torch.device("cuda", 0), torch.bfloat16, 32, (7, 7))


def test_the_kernel_serves_where_it_was_seen_right(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert not served(monkeypatch, "off", [0.0])
    assert served(monkeypatch, "auto", [0.01, 0.02])
    assert not caplog.records
    assert not served(monkeypatch, "auto", [0.01, float("nan")])
    assert not served(monkeypatch, "auto", RuntimeError("no ptxas"))
    assert ["errs" in record.message or "no ptxas" in record.message for record in caplog.records] == [True, True]
    assert served(monkeypatch, "on", RuntimeError("unasked"))
    with pytest.raises(ConfigError, match="must be one of off, auto, on"):
        served(monkeypatch, "yes", [0.0])


def test_the_kernel_leaves_to_pytorch_what_it_is_not_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gridded_attention.VARIABLE, "on")
    serves = gridded_attention.kernel_serves
    device = torch.device("cpu")
    assert serves(device, torch.float16, 32, (12, 12))
    assert not serves(device, torch.float64, 32, (7, 7))
    assert not serves(device, torch.float16, 24, (7, 7))
    assert not serves(device, torch.float16, 32, (8, 7, 7)) and not serves(device, torch.float16, 32, (17, 16))
    monkeypatch.setenv(gridded_attention.VARIABLE, "auto")
    assert not serves(device, torch.float16, 32, (7, 7))


if __name__ == "__main__":
    print(json.dumps({name: errors_of(case) for name, case in CASES.items()}))
