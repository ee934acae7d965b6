"""What holds for every variant: its own windows and kind of block, in a model of a few channels and blocks."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchgen
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.random_values import randomised
from swin_dense.backbones import VARIANTS, SwinTransformer, create_backbone
from swin_dense.backbones.block import SwinBlock
from swin_dense.weights import load_weights
from swin_dense.weights.files import save_weights

EVERY = pytest.mark.parametrize("name", [*VARIANTS, "swin3d_nano split", "swin3d_nano factorized"])


def create(name: str, **options: object) -> SwinTransformer:
    """A variant, with the design of spatiotemporal attention that may follow its name."""
    variant, _, design = name.partition(" ")
    return create_backbone(variant, spatiotemporal_attention=design or "joint", **options)


def narrow(name: str, **options: object) -> SwinTransformer:
    """The variant with few channels, heads and blocks, among them a shifted one, and values that matter."""
    small = {"embed_dim": 8, "depths": (2, 1, 2, 1), "num_heads": (1, 2, 2, 4)}
    return randomised(create(name, **{**small, **options}))


def example(name: str) -> Tensor:
    """Two images, or clips, of an odd size."""
    frames = [5] if name.startswith("swin3d") else []
    return torch.randn(2, 3, *frames, 70, 101, generator=torch.Generator().manual_seed(1))


def maps_and_gradients(model: SwinTransformer, batch: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
    model.zero_grad()
    maps = model(batch)
    sum((x.float() * torch.linspace(-1, 1, x.numel()).view_as(x)).sum() for x in maps).backward()
    return [x.detach() for x in maps], [parameter.grad for parameter in model.parameters()]


@EVERY
@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
def test_everything_is_finite_and_every_parameter_gets_a_gradient(name: str, bfloat16: bool) -> None:
    model = narrow(name).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        maps, gradients = maps_and_gradients(model, example(name))
    assert all(x.isfinite().all() for x in maps)
    for (parameter, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), parameter


class Operators(TorchDispatchMode):
    """The names of all operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name().removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@lru_cache(maxsize=1)
def operators_without_a_kernel_for_apple() -> frozenset[str]:
    """Those which PyTorch's own table gives neither a kernel for MPS nor one for every device."""
    table = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    entries = yaml.load(table.read_text(encoding="utf-8"), yaml.CSafeLoader)
    kernels = {one["func"].partition("(")[0]: one for one in entries}
    lacking = set()
    for name, one in kernels.items():
        of = kernels[one.get("structured_delegate", name)]
        devices = [device.strip() for devices in of.get("dispatch", {}) for device in devices.split(",")]
        if devices and not any(device == "MPS" or device.startswith("Composite") for device in devices):
            lacking.add(name)
    return frozenset(lacking)


@EVERY
def test_a_training_pass_needs_nothing_that_apple_gpus_lack(name: str) -> None:
    with torch.device("meta"), Operators() as called:
        maps = create(name, embed_dim=8, depths=(2, 1, 2, 1), num_heads=(1, 2, 2, 4), drop_path_rate=0.5).train()(
            torch.empty(example(name).shape)
        )
        torch.stack([x.sum() for x in maps]).sum().backward()
    assert len(called.names) > 30
    assert not called.names & operators_without_a_kernel_for_apple()


@EVERY
def test_activation_checkpointing_changes_nothing(name: str) -> None:
    batch = example(name)
    expected, gradients = maps_and_gradients(narrow(name).train(), batch)
    maps, found = maps_and_gradients(narrow(name, activation_checkpointing=True).train(), batch)
    assert all(map(torch.equal, maps, expected)) and all(map(torch.equal, found, gradients))


@EVERY
def test_drop_path_rises_over_the_blocks_and_acts_in_training_alone(name: str) -> None:
    model, plain, batch = narrow(name, drop_path_rate=0.5), narrow(name), example(name)
    rates = [block.drop_path for block in model.modules() if isinstance(block, SwinBlock)]
    assert rates == pytest.approx(torch.linspace(0.0, 0.5, 8 if name.endswith(" split") else 6).tolist())
    with torch.no_grad():
        assert all(map(torch.equal, model(batch), plain(batch)))
        model.train()
        torch.manual_seed(0)
        first = model(batch)
        torch.manual_seed(0)
        assert all(map(torch.equal, first, model(batch)))
        assert not torch.allclose(first[-1], plain(batch)[-1])


@EVERY
def test_weights_survive_a_file_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, other = narrow(name), create(name, embed_dim=8, depths=(2, 1, 2, 1), num_heads=(1, 2, 2, 4)).eval()
    save_weights(model.state_dict(), tmp_path / "weights.safetensors")
    load_weights(other, tmp_path / "weights.safetensors")
    assert all(map(torch.equal, other.state_dict().values(), model.state_dict().values()))
    with torch.no_grad():
        assert all(map(torch.equal, other(example(name)), model(example(name))))


@EVERY
def test_feature_specs_are_true(name: str) -> None:
    """Of the variant as it is, at its full width."""
    with torch.device("meta"):
        model = create(name)
        maps = model(example(name).to("meta"))
    assert [spec.stride for spec in model.feature_specs] == [4, 8, 16, 32]
    for found, spec in zip(maps, model.feature_specs, strict=True):
        time = (-(-5 // spec.temporal_stride),) if spec.temporal_stride else ()
        assert found.shape == (2, spec.channels, *time, -(-70 // spec.stride), -(-101 // spec.stride))
