"""The kernels of norms, linear layers and MLPs equal PyTorch, and leave alone what they would pass by.

As for attention, the cases in Triton are computed by its interpreter in a process of their own, by this file as script.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from swin_dense.backbones import create_backbone, rows
from swin_dense.backbones.gridded_attention import kernel_serves
from swin_dense.backbones.rows import LayerNorm, Mlp, errors_of_mlp, errors_of_norm, has_norm_and_mlp
from swin_dense.backbones.swin import SwinTransformer

TOLERANCES = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}
CPU = torch.device("cpu")


def errors_of_all() -> dict[str, list[float]]:
    """Relative errors by case."""
    from swin_dense.backbones import triton_rows

    triton_rows.BACKWARD_PROGRAMS = 3  # each takes several blocks of rows
    found = {}
    for dtype in TOLERANCES:
        for channels in (16, 96):
            for channels_first in (False, True):
                name = f"{dtype}: norm of {channels} channels{', as a map' * channels_first}"
                found[name] = errors_of_norm(CPU, dtype, channels, True, channels_first)
        for rows_dtype in {dtype, torch.float32}:
            found[f"{dtype}: MLP of rows in {rows_dtype}"] = errors_of_mlp(CPU, dtype, rows_dtype, 96)
    rows.LEAST_VALUES = 0
    return {**found, "backbone": errors_of_backbone()}


def errors_of_backbone() -> list[float]:
    """Of maps and gradients in float32, and of maps at inference in bfloat16, against the backbone without kernels."""
    backbone, images = small_backbone(), torch.randn(2, 3, 29, 38)
    results = []
    for mode in ("off", "on"):
        os.environ["SWIN_DENSE_TRITON_KERNELS"] = mode
        assert kernel_serves(CPU, torch.float32, 16, (4, 4)) == (mode == "on")  # that of attention
        torch.manual_seed(1)  # drops the same paths
        maps = backbone.train()(images)
        gradients = torch.autograd.grad(sum(one.square().sum() for one in maps), list(backbone.parameters()))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            rounded = list(backbone.eval()(images))
        results.append([*maps, *gradients, *rounded])
    return [rows.relative_error(ours, theirs) for theirs, ours in zip(*results, strict=True)]


def small_backbone() -> SwinTransformer:
    torch.manual_seed(0)
    backbone = create_backbone("swin_nano", depths=(2, 2), num_heads=(2, 4), out_indices=(0, 1), drop_path_rate=0.3)
    for name, parameter in backbone.named_parameters():
        if name.endswith(("bias", "bias_table")):
            nn.init.normal_(parameter)
    return backbone


@pytest.fixture(scope="module")
def errors() -> dict[str, list[float]]:
    try:
        if Version(importlib.metadata.version("triton")) < Version("3.7"):
            pytest.skip("before version 3.7, Triton's interpreter fails with NumPy 2.4 or newer")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("Triton is not installed")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_kernels_equal_pytorch(errors: dict[str, list[float]]) -> None:
    for dtype, tolerance in TOLERANCES.items():
        found = {name: max(one) for name, one in errors.items() if name.startswith(f"{dtype}:")}
        assert len(found) >= 5 and max(found.values()) < tolerance, found


def test_a_backbone_with_the_kernels_equals_the_one_without(errors: dict[str, list[float]]) -> None:
    """With that of attention, too."""
    *exact, first, second = errors["backbone"]
    assert max(exact) < 1e-4, errors["backbone"]
    assert 0 < max(first, second) < 2e-2, errors["backbone"]


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the checks that were asked for, where every kernel is right."""
    asked: list[str] = []

    def is_right(errors: object, *_: object) -> bool:
        asked.append(errors.__name__)  # type: ignore[attr-defined]  # a function
        return True

    monkeypatch.setattr(rows, "kernel_is_right", is_right)
    yield asked


def serves(norm: LayerNorm, mlp: nn.Module, count: int = 2**18, dtype: torch.dtype = torch.bfloat16) -> bool:
    tokens = torch.zeros(count, 16, dtype=dtype)
    with torch.no_grad():
        return has_norm_and_mlp(tokens, tokens, norm, mlp)


def test_the_mlp_kernel_serves_many_tokens_without_gradients(kernels: list[str]) -> None:
    norm, mlp = LayerNorm(16), Mlp(16)
    assert serves(norm, mlp) and kernels == ["errors_of_mlp"]
    assert not serves(norm, mlp, count=1000)
    assert not serves(norm, mlp, dtype=torch.float32)
    tokens = torch.zeros(2**18, 16, dtype=torch.bfloat16)
    assert not has_norm_and_mlp(tokens, tokens, norm, mlp)  # gradients may be asked for


def test_no_hook_and_no_replaced_layer_is_passed_by(kernels: list[str]) -> None:
    class Adapted(nn.Linear):
        pass

    norm, mlp = LayerNorm(16), Mlp(16)
    handle = mlp.fc1.register_forward_hook(lambda *_: None)
    assert not serves(norm, mlp)
    handle.remove()
    assert serves(norm, mlp)
    mlp.fc2 = Adapted(64, 16)
    assert not serves(norm, mlp)
    assert not serves(norm, nn.Sequential(Mlp(16)))


def test_onednn_computes_the_linear_layers_of_a_cpu_in_bfloat16_without_gradients(monkeypatch: Any) -> None:
    dtype = torch.bfloat16
    if not rows.onednn_is_right(dtype):
        pytest.skip("this processor has no such kernel")
    mlp, tokens = random_mlp().to(dtype), torch.randn(5, 49, 24).to(dtype)
    expected = mlp.double()(tokens.double())
    mlp.to(dtype)
    calls = calls_of(monkeypatch, "_onednn_linear")
    kept = mlp(tokens)
    assert not calls, "a backward pass would find nothing"
    with torch.no_grad():
        fused = mlp(tokens)
        with FlopCounterMode(display=False) as counter:
            mlp(tokens)
    assert len(calls) == 2, "counters of operators know PyTorch's own alone"
    assert counter.get_total_flops() == 2 * 2 * 5 * 49 * 24 * 96
    for found in (kept, fused):
        assert rows.relative_error(found, expected) < TOLERANCES[dtype]


@pytest.mark.parametrize("is_amd", [True, False])
def test_onednn_computes_linear_layers_in_float32_on_processors_of_amd_with_their_gradients(
    monkeypatch: Any, is_amd: bool
) -> None:
    monkeypatch.setattr(rows, "onednn_is_right", cache(rows.onednn_is_right.__wrapped__))
    monkeypatch.setattr(rows, "_is_amd_processor", lambda: is_amd)
    if is_amd and not rows.onednn_is_right(torch.float32):
        pytest.skip("this processor has no such kernel")
    mlp, tokens = random_mlp(), torch.randn(5, 49, 24, requires_grad=True)
    reduction = nn.Linear(24, 12, bias=False)
    inputs = [tokens, *mlp.parameters(), *reduction.parameters()]
    weights = torch.randn(5, 49, 12)

    def output() -> Tensor:
        return rows.linear(reduction, mlp(tokens))

    calls = calls_of(monkeypatch, "_onednn_linear")
    found = [output(), *torch.autograd.grad((output() * weights).sum(), inputs)]
    with torch.no_grad():
        found.append(output())
    assert len(calls) == (4 * 3 if is_amd else 0), "three layers: forward twice, backward, and without gradients"
    exact = [one.detach().double().requires_grad_() for one in inputs]
    first, second = (exact[1:3], exact[3:5])
    hidden = functional.gelu(functional.linear(exact[0], *first))
    wanted = functional.linear(functional.linear(hidden, *second), exact[5])
    expected = [wanted, *torch.autograd.grad((wanted * weights).sum(), exact), wanted]
    for ours, theirs in zip(found, expected, strict=True):
        assert rows.relative_error(ours, theirs) < TOLERANCES[torch.float32]


@pytest.mark.parametrize(
    ("content", "is_amd"), [("vendor_id\t: AuthenticAMD\n", True), ("vendor_id\t: GenuineIntel\n", False)]
)
def test_the_maker_of_the_processor_is_read(monkeypatch: Any, tmp_path: Path, content: str, is_amd: bool) -> None:
    (tmp_path / "cpuinfo").write_text(content)
    monkeypatch.setattr(rows, "Path", lambda _: tmp_path / "cpuinfo")
    assert rows._is_amd_processor() is is_amd
    monkeypatch.setattr(rows, "Path", lambda _: tmp_path / "absent")
    monkeypatch.setattr(rows.platform, "processor", lambda: "AMD64 Family 25 Model 33 Stepping 0, AuthenticAMD")
    assert rows._is_amd_processor()


def test_a_processor_whose_kernel_is_wrong_or_missing_is_left_to_pytorch(monkeypatch: Any) -> None:
    def wrong(tokens: Tensor, weight: Tensor, bias: Tensor, *, gelu: bool) -> Tensor:
        return tokens @ weight.T

    def missing(*_: Tensor, gelu: bool) -> Tensor:
        return torch.ops.mkldnn.no_such_operator()

    monkeypatch.setattr(rows, "_is_amd_processor", lambda: True)
    for broken in (wrong, missing):
        monkeypatch.setattr(rows, "_onednn_linear", broken)
        assert not any(rows.onednn_is_right.__wrapped__(dtype) for dtype in (torch.bfloat16, torch.float32))


@pytest.mark.parametrize("frozen", [(), ("fc1",), ("fc2",)])
def test_an_mlp_has_the_gradients_of_the_plain_form_and_keeps_its_hidden_channels_once(frozen: tuple[str, ...]) -> None:
    mlp, tokens = random_mlp().double(), torch.randn(5, 49, 24, dtype=torch.float64, requires_grad=True)
    for name in frozen:
        mlp.get_submodule(name).requires_grad_(False)
    inputs = [tokens, *(one for one in mlp.parameters() if one.requires_grad)]
    kept: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda one: kept.update({one.data_ptr(): one.numel()}) or one, lambda one: one
    ):
        mapped = mlp(tokens)
    plain = mlp.fc2(functional.gelu(mlp.fc1(tokens)))
    weights = torch.randn_like(plain)
    found, expected = (torch.autograd.grad(one, inputs, weights) for one in (mapped, plain))
    torch.testing.assert_close((mapped, *found), (plain, *expected))
    assert sum(numel == 5 * 49 * 96 for numel in kept.values()) == 1


def test_an_mlp_under_autocast_has_gradients_in_the_types_of_its_parameters() -> None:
    mlp, tokens = random_mlp(), torch.randn(5, 49, 24, requires_grad=True)
    results = []
    for form in (mlp, lambda rows: mlp.fc2(functional.gelu(mlp.fc1(rows)))):
        with torch.autocast("cpu", torch.bfloat16):
            mapped = form(tokens)
        results.append(torch.autograd.grad(mapped.float().square().sum(), [tokens, *mlp.parameters()]))
    for found, expected in zip(*results, strict=True):
        assert found.dtype == torch.float32
        assert rows.relative_error(found, expected) < 2 * TOLERANCES[torch.bfloat16]


class Tripled(Tensor):
    """A weight that says itself what a linear layer with it computes, as quantised ones do."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.linear:
            return functional.linear(args[0], 3 * args[1].as_subclass(Tensor), *args[2:])
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize("replaced", ["weight", "forward", "hook of all modules"])
@pytest.mark.parametrize("gradient", [False, True])
def test_what_is_put_in_the_place_of_a_layer_s_own_is_not_passed_by(
    monkeypatch: Any, replaced: str, gradient: bool
) -> None:
    monkeypatch.setattr(rows, "onednn_is_right", lambda dtype: dtype == torch.float32)
    mlp, tokens = random_mlp(), torch.randn(5, 49, 24)
    handle = None
    for layer in (mlp.fc1, mlp.fc2):
        if replaced == "weight":
            weight = layer.weight.detach().as_subclass(Tripled)
            layer.weight = nn.Parameter(weight, requires_grad=False)
        elif replaced == "forward":
            monkeypatch.setattr(layer, "forward", lambda rows, layer=layer: nn.Linear.forward(layer, 3 * rows))
    if replaced == "hook of all modules":
        handle = nn.modules.module.register_module_forward_hook(lambda _, __, output: 3 * output)
    try:
        with torch.set_grad_enabled(gradient):
            found, wanted = mlp(tokens), mlp.fc2(functional.gelu(mlp.fc1(tokens)))
    finally:
        if handle is not None:
            handle.remove()
            wanted = 3 * wanted  # the MLP is a module, too
    torch.testing.assert_close(found, wanted)


def random_mlp() -> Mlp:
    torch.manual_seed(0)
    mlp = Mlp(24)
    for parameter in mlp.parameters():
        nn.init.normal_(parameter)
    return mlp


def calls_of(monkeypatch: Any, name: str) -> list[Any]:
    """The calls of a function of `rows`, which is still called."""
    calls, called = [], getattr(rows, name)
    monkeypatch.setattr(rows, name, lambda *given, **named: calls.append(given) or called(*given, **named))
    return calls


def test_norms_round_for_the_next_linear_layer_alone() -> None:
    norm, tokens = LayerNorm(8), torch.randn(3, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(tokens).dtype == torch.float32
        assert norm(tokens, for_linear=True).dtype == torch.bfloat16
    assert norm(tokens, for_linear=True).dtype == torch.float32
    as_map = norm(tokens, channels_first=True)
    assert as_map.shape == (3, 8, 5) and as_map.is_contiguous()
    assert torch.equal(as_map.movedim(1, -1), nn.LayerNorm(8)(tokens))


if __name__ == "__main__":
    os.environ["SWIN_DENSE_TRITON_KERNELS"] = "on"
    print(json.dumps(errors_of_all()))
