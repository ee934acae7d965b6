"""The kernels of norms, linear layers and MLPs equal PyTorch, and leave alone what they would pass by.

As for attention, the cases in Triton are computed by its interpreter in a process of their own, by this file as script.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import math
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
from swin_dense.backbones.block import StageOptions, SwinBlock
from swin_dense.backbones.gridded_attention import kernel_serves
from swin_dense.backbones.rows import LayerNorm, Mlp, errors_of_mlp, errors_of_norm, has_norm_and_mlp
from swin_dense.backbones.swin import SwinTransformer
from swin_dense.backbones.windows import window_plan

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
    monkeypatch.setattr(rows, "is_amd_processor", lambda: is_amd)
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
    assert rows.is_amd_processor.__wrapped__() is is_amd
    monkeypatch.setattr(rows, "Path", lambda _: tmp_path / "absent")
    monkeypatch.setattr(rows.platform, "processor", lambda: "AMD64 Family 25 Model 33 Stepping 0, AuthenticAMD")
    assert rows.is_amd_processor.__wrapped__()


def test_a_processor_whose_kernel_is_wrong_or_missing_is_left_to_pytorch(monkeypatch: Any) -> None:
    def wrong(tokens: Tensor, weight: Tensor, bias: Tensor, *, gelu: bool) -> Tensor:
        return tokens @ weight.T

    def missing(*_: Tensor, gelu: bool) -> Tensor:
        return torch.ops.mkldnn.no_such_operator()

    monkeypatch.setattr(rows, "is_amd_processor", lambda: True)
    for broken in (wrong, missing):
        monkeypatch.setattr(rows, "_onednn_linear", broken)
        assert not any(rows.onednn_is_right.__wrapped__(dtype) for dtype in (torch.bfloat16, torch.float32))


@pytest.mark.parametrize("frozen", [(), ("fc1",), ("fc2",), ("norm",), ("fc1", "norm")])
def test_norm_and_mlp_have_plain_gradients_and_keep_no_input_of_a_layer(
    frozen: tuple[str, ...],
) -> None:
    mlp, norm, tokens = random_mlp().double(), random_norm().double(), torch.randn(5, 49, 24, dtype=torch.float64)
    tokens.requires_grad_()
    for name in frozen:
        (norm if name == "norm" else mlp.get_submodule(name)).requires_grad_(False)
    inputs = [tokens, *(one for one in [*mlp.parameters(), *norm.parameters()] if one.requires_grad)]
    kept: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda one: kept.update({one.data_ptr(): one.numel()}) or one, lambda one: one
    ):
        mapped = mlp(tokens, norm)
    plain = mlp.fc2(functional.gelu(mlp.fc1(norm(tokens))))
    weights = torch.randn_like(plain)
    found, expected = (torch.autograd.grad(one, inputs, weights) for one in (mapped, plain))
    torch.testing.assert_close((mapped, *found), (plain, *expected))
    assert sorted(numel for numel in kept.values() if numel > 4 * 24 * 24) == [5 * 49 * 24, 5 * 49 * 96]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_and_mlp_under_autocast_have_gradients_in_the_types_of_their_parameters(dtype: torch.dtype) -> None:
    mlp, norm, tokens = random_mlp(), random_norm(), torch.randn(5, 49, 24).to(dtype).requires_grad_()
    results = []
    for form in (mlp, lambda rows, norm: mlp.fc2(functional.gelu(mlp.fc1(norm(rows))))):
        with torch.autocast("cpu", torch.bfloat16):
            mapped = form(tokens, norm)
        loss = mapped.float().square().sum()
        results.append(torch.autograd.grad(loss, [tokens, *mlp.parameters(), *norm.parameters()]))
    for found, expected in zip(*results, strict=True):
        assert found.dtype == expected.dtype
        assert rows.relative_error(found, expected) < 2 * TOLERANCES[torch.bfloat16]


def test_a_norm_with_a_hook_runs_once() -> None:
    mlp, norm, tokens = random_mlp(), random_norm(), torch.randn(5, 49, 24)
    expected = torch.autograd.grad(mlp(3 * norm(tokens)).sum(), list(mlp.parameters()))
    calls: list[Tensor] = []
    norm.register_forward_hook(lambda _, __, output: calls.append(output) or 3 * output)
    found = torch.autograd.grad(mlp(tokens, norm).sum(), list(mlp.parameters()))
    torch.testing.assert_close(found, expected)
    assert len(calls) == 1


@pytest.mark.parametrize("frozen_norm", [False, True])
def test_gradients_are_those_of_the_parameters_that_a_module_was_called_with(frozen_norm: bool) -> None:
    """As learning to learn calls modules; they have their own parameters again when gradients are taken."""
    norm, tokens = random_norm(), torch.randn(5, 49, 24)
    modules = nn.ModuleDict({"mlp": random_mlp(), "norm": norm.requires_grad_(not frozen_norm)})
    modules.forward = lambda rows: modules["mlp"](rows, modules["norm"])
    given = {name: torch.randn_like(one) for name, one in modules.named_parameters()}
    learnt = [one.requires_grad_() for name, one in given.items() if not (frozen_norm and "norm" in name)]
    found = torch.autograd.grad(torch.func.functional_call(modules, given, tokens).square().sum(), learnt)
    normalised = functional.layer_norm(tokens, (24,), given["norm.weight"], given["norm.bias"])
    hidden = functional.gelu(functional.linear(normalised, given["mlp.fc1.weight"], given["mlp.fc1.bias"]))
    mapped = functional.linear(hidden, given["mlp.fc2.weight"], given["mlp.fc2.bias"])
    torch.testing.assert_close(found, torch.autograd.grad(mapped.square().sum(), learnt))


def test_a_norm_that_was_changed_before_the_backward_pass_is_refused() -> None:
    mlp, norm, tokens = random_mlp(), random_norm().requires_grad_(False), torch.randn(5, 49, 24)
    mapped = mlp(tokens, norm)
    norm.weight.mul_(2)
    with pytest.raises(RuntimeError, match="inplace operation"):
        mapped.sum().backward()


@pytest.mark.parametrize("sides", [(8, 12), (9, 10)])
def test_a_block_keeps_ten_channels_for_each_of_a_token(sides: tuple[int, int]) -> None:
    """Rows before either norm (2), query, key and value (3), what attended (1) and hidden channels (4)."""
    block = SwinBlock(StageOptions(channels=32, heads=2, window=(4, 4)), drop_path=0.0)
    tokens = torch.randn(2, *sides, 32, requires_grad=True)
    plan = window_plan(tokens, (4, 4), (2, 2))
    rows = plan.from_grid[1](tokens.flatten(0, -2))
    kept: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda one: kept.update({one.untyped_storage().data_ptr(): one.numel()}) or one, lambda one: one
    ):
        block(rows, plan.partitions[1])
    attended = 2 * math.prod(plan.partitions[1].shape[::2]) * 32  # padding, too
    large = sorted(numel for numel in kept.values() if numel >= rows.numel())
    assert large == sorted([rows.numel()] * 2 + [attended, 3 * attended, 4 * rows.numel()])


def test_modules_in_the_place_of_attention_and_mlp_are_given_normalised_tokens() -> None:
    """As adapters and mixtures of experts put them there; they know nothing of norms."""

    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, tokens: Tensor, *arguments: Any) -> Tensor:
            assert all(type(one) is not rows.Before for one in arguments)
            output: Tensor = 2 * self.module(tokens, *arguments)
            return output

    block = SwinBlock(StageOptions(channels=32, heads=2, window=(4, 4)), drop_path=0.0)
    nn.init.normal_(block.norm1.bias)
    tokens, partition = torch.randn(70, 32), window_plan(torch.empty(2, 5, 7, 32), (4, 4), (2, 2)).partitions[1]
    doubled = copy.deepcopy(block)
    for layer in (doubled.attn.proj, doubled.mlp.fc2):
        layer.weight.data.mul_(2)
        layer.bias.data.mul_(2)
    block.attn, block.mlp = Wrapper(block.attn), Wrapper(block.mlp)
    torch.testing.assert_close(block(tokens, partition), doubled(tokens, partition))


def random_norm() -> LayerNorm:
    norm = LayerNorm(24)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


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
