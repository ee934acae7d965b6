"""Layers that users wrap, replace, quantise or hook compute what they say, whatever the kernels: none is passed by."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from swin_dense.backbones import SwinTransformer, rows
from swin_dense.backbones.gridded_attention import plain_attention
from swin_dense.backbones.plain import PlainSwin
from swin_dense.backbones.rows import Mlp

KINDS: dict[str, dict[str, Any]] = {
    "V1": {},
    "V2": {"version": 2},
    "without appearance": {"appearance_term": False},
    "without positions": {"relative_position_bias": False},
    "MLP": {"mixing": "mlp"},
    "video": {"window_size": (2, 4, 4), "patch_size": (2, 4, 4)},
}
FORMS = ["inference", "training", "plain", "grid"]


class Adapted(nn.Module):
    """A linear layer plus a product of two small matrices, as LoRA has it; it has no `weight`."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.layer = layer
        self.down = nn.Parameter(torch.randn(2, layer.in_features) / 10)
        self.up = nn.Parameter(torch.randn(layer.out_features, 2) / 10)

    def forward(self, tokens: Tensor) -> Tensor:
        mapped: Tensor = self.layer(tokens) + tokens @ self.down.T @ self.up.T
        return mapped


class AdaptedSubclass(Adapted, nn.Linear):
    """The same with a `weight`, that of the layer, which by itself is not what it computes."""

    def __init__(self, layer: nn.Linear) -> None:
        Adapted.__init__(self, layer)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias


@pytest.fixture(params=list(KINDS))
def backbone(request: pytest.FixtureRequest) -> SwinTransformer:
    torch.manual_seed(0)
    options = {"window_size": 4, **KINDS[request.param]}
    model = SwinTransformer(embed_dim=16, depths=(2, 2), num_heads=(1, 2), out_indices=(0, 1), **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 10)
    return model


@pytest.mark.parametrize("adapted", [Adapted, AdaptedSubclass])
@pytest.mark.parametrize("form", FORMS)
def test_wrapped_linear_layers_are_used(
    backbone: SwinTransformer, adapted: type[Adapted], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = copy.deepcopy(backbone)
    for name, layer in [*backbone.named_modules()]:
        if isinstance(layer, nn.Linear) and not name.split(".")[-1].isdigit():
            wrapper = adapted(layer)
            replace(backbone, name, wrapper)
            with torch.no_grad():
                merged.get_submodule(name).weight.add_(wrapper.up @ wrapper.down)
    found, wanted = maps(backbone, form, monkeypatch), maps(merged, "training")
    for ours, right in zip(found, wanted, strict=True):
        assert (ours - right).abs().max() <= 1e-4 * right.abs().max()
    if form == "training":
        sum(one.square().sum() for one in found).backward()
        assert all(one.grad is not None and one.grad.any() for one in backbone.parameters() if one.requires_grad)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("form", FORMS)
def test_other_norms_take_the_place_of_ours(
    backbone: SwinTransformer, norm: type[nn.Module], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = maps(backbone, "training")
    for name, layer in [*backbone.named_modules()]:
        if isinstance(layer, nn.LayerNorm):
            other = norm(layer.normalized_shape, 1e-5)
            if isinstance(other, nn.LayerNorm):
                other.load_state_dict(layer.state_dict())
            replace(backbone, name, other)
    if norm is not nn.LayerNorm:  # its own result, whichever way
        wanted = maps(backbone, "training")
    for ours, right in zip(maps(backbone, form, monkeypatch), wanted, strict=True):
        assert ours.is_contiguous()
        assert (ours - right).abs().max() <= 1e-4 * right.abs().max()


@pytest.mark.parametrize("form", ["inference", "training", "grid"])
def test_hooks_see_every_token_once(backbone: SwinTransformer, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the groups of windows that stay in a CPU's cache, one would see the last group alone."""
    monkeypatch.setattr("swin_dense.backbones.windows.GROUP_TOKENS", 64)
    calls: Counter[str] = Counter()
    for name, module in backbone.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    maps(backbone, form, monkeypatch)
    lists = {name for name, module in backbone.named_modules() if isinstance(module, nn.ModuleList)}
    assert calls == {name: 1 for name, _ in backbone.named_modules() if name not in lists}


@pytest.mark.parametrize("form", FORMS)
def test_what_hooks_return_is_used(backbone: SwinTransformer, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name, module in backbone.named_modules() if isinstance(module, (nn.Linear, nn.LayerNorm))]
    own = maps(backbone, form, monkeypatch)
    for name in names:
        handle = backbone.get_submodule(name).register_forward_hook(lambda _, __, output: 2 * output)
        assert not all(map(torch.equal, maps(backbone, form, monkeypatch), own)), name
        handle.remove()


def test_layers_quantised_by_pytorch_are_used(backbone: SwinTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = maps(backbone, "inference")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they will be removed
        quantised = torch.ao.quantization.quantize_dynamic(backbone, {nn.Linear}, dtype=torch.qint8)
    for form in ("inference", "plain"):
        for ours, right in zip(maps(quantised, form, monkeypatch), wanted, strict=True):
            assert 0 < (ours - right).norm() < 0.1 * right.norm()


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
    mlp, tokens = Mlp(24), torch.randn(5, 49, 24)
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


def maps(model: SwinTransformer, form: str, monkeypatch: pytest.MonkeyPatch | None = None) -> Iterable[Tensor]:
    images = torch.linspace(-2, 2, 2 * 3 * 4 * 45 * 57).sin().view(2, 3, 4, 45, 57)
    images = images if len(model.window) == 3 else images[:, :, 0]
    if form == "grid" and monkeypatch is not None and len(model.window) == 2:
        monkeypatch.setattr("swin_dense.backbones.attention.gridded_attention", plain_attention)
        monkeypatch.setattr("swin_dense.backbones.block.kernel_serves", lambda *_: True)
    network = PlainSwin(model) if form == "plain" else model
    with torch.set_grad_enabled(form == "training"):
        found: Iterable[Tensor] = network(images)
    return found


def replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)
