"""Sizes of a model: its parameters, and the multiply-adds of one forward pass.

The convention is that of the published tables. One multiply-add counts once (it is called "FLOPs" there). Every
convolution, deformable ones included, and every matrix product counts: linear layers, and both products of attention,
`q @ k` and `attention @ v`. Normalisations, activations, softmax, biases, additions, resizing, RoI pooling and
interpolation count nothing. What is computed counts, needed or not: the padding that fills the last window of a map
takes part in attention like any token, and in nothing else. The network behind the position bias of Swin V2 counts
nothing either, as in published counts: it sees no image, and its output can be kept with the weights.

The published counts of detectors are, as far as one can infer, what a counter of layers saw plus the products of window
attention. Such a counter also sees norms, activations and biases (up to 0.5 %: Cascade Mask R-CNN on R-50 is 737.6 G
here and with them the published 739 G), and it does not see products that no layer makes. All counts of Mask R-CNN,
Cascade Mask R-CNN and ATSS (on Swin, R-50 and X101, at 800x1280) are met within 0.3 % but one; Sparse R-CNN's are not:

| at 800x1280 | published | counted here | products that were not seen |
|---|---|---|---|
| Sparse R-CNN, Swin-T | 172 G | 175.6 G | 3.6 G: attention among the 300 proposals 0.75, dynamic convolutions 2.89 |
| Sparse R-CNN, R-50 | 166 G | 168.3 G | the same 3.6 G; norms, activations and biases, which were, are 0.8 G |
| Cascade Mask R-CNN, Swin-L | 1,382 G (ConvNeXt paper) | 1,391.6 G | 9.8 G: window attention |

The published counts of UperNet on Swin-T, S and B are met within 0.1 % (crops of 512 pixels: at 512x2048, of 640: at
640x2560); the rest is the norms and biases that they include. On Swin-L at 640x2560 it is 2,482 G. The 2,468 G of the
ConvNeXt paper lacks the two products of attention (15.6 G), which mmseg's own counter does not see; the 3,230 G of the
Swin paper is 1.3 times the count, and no size of its other rows gives it.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from swin_dense.backbones.attention import CosineAttention

Forward = Callable[[nn.Module], object]
"""Runs one forward pass of the module that it is given, whose inputs are made on that module's own device, for instance
`lambda model: model(torch.empty(1, 3, 800, 1280, device=next(model.parameters()).device))`."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class MacCount:
    """Multiply-adds of one forward pass.

    Parts are submodules in the order of the first call, with at most two components in the name ("backbone",
    "roi_head.mask_head"). What ran outside any submodule is in `total` alone.
    """

    total: int
    parts: dict[str, int]


@dataclass(frozen=True)
class PartStats:
    """Parameters and multiply-adds of one submodule."""

    params: int
    macs: int


@dataclass(frozen=True)
class ModelStats:
    """Size of a model, and of its parts as in `MacCount`."""

    params: int  # frozen ones included, shared ones once
    trainable_params: int  # those that receive gradients
    macs: int  # multiply-adds of one forward pass
    parts: dict[str, PartStats]

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts and numbers, for JSON."""
        return asdict(self)


def model_stats(module: nn.Module, forward: Forward) -> ModelStats:
    """Counts parameters and multiply-adds without changing the module.

    The forward pass runs in evaluation mode on a copy, on the meta device, where shapes alone are computed; where an
    operator needs values (the indices of a mask, say), it runs on the CPU instead. Accelerators are not used: not all
    of their fused operators can be counted.
    """
    try:
        macs = count_macs(copy.deepcopy(module).eval().to("meta"), forward)
    except RuntimeError:  # the meta device lacks values; any other cause shows again here
        macs = count_macs(copy.deepcopy(module).eval().to("cpu"), forward)
    return ModelStats(
        params=count_parameters(module),
        trainable_params=count_parameters(module, trainable_only=True),
        macs=macs.total,
        parts={name: PartStats(count_parameters(module.get_submodule(name)), n) for name, n in macs.parts.items()},
    )


def count_parameters(module: nn.Module, trainable_only: bool = False) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


def count_macs(module: nn.Module, forward: Forward) -> MacCount:
    """Multiply-adds of one forward pass of the module in its present mode, on its present device."""
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    # Fused attention layers in evaluation mode are one opaque operator; their plain form is countable.
    with ExitStack() as stack:
        for context in (torch.no_grad(), _without_fused_attention_layers(), _without_position_networks(module)):
            stack.enter_context(context)
        parts = stack.enter_context(_macs_by_part(module, counter))
        with counter:
            forward(module)
    return MacCount(_macs_so_far(counter), {name: macs for name, macs in parts.items() if macs})


def _macs_so_far(counter: FlopCounterMode) -> int:
    """Two floating-point operations make one multiply-add."""
    return int(counter.get_total_flops()) // 2


@contextmanager
def _macs_by_part(module: nn.Module, counter: FlopCounterMode) -> Iterator[dict[str, int]]:
    """Attributes what `counter` sees to the outermost submodules that are called, wherever the call comes from."""
    parts: dict[str, int] = defaultdict(int)
    entered: list[int] = []  # one entry per submodule that is running: the count at its start

    def enter(_module: nn.Module, _inputs: Any) -> None:
        entered.append(_macs_so_far(counter))

    def leave(part: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            before = entered.pop()
            if not entered:
                parts[part] += _macs_so_far(counter) - before

        return hook

    with ExitStack() as hooks:
        for name, submodule in module.named_modules():
            if submodule is not module:
                part = ".".join(name.split(".")[:2])
                hooks.callback(submodule.register_forward_pre_hook(enter).remove)
                hooks.callback(submodule.register_forward_hook(leave(part)).remove)
        yield parts


@contextmanager
def _without_position_networks(module: nn.Module) -> Iterator[None]:
    """Puts zeros in the place of what the networks behind position biases give."""
    networks = [(one.cpb_mlp, one.heads) for one in module.modules() if isinstance(one, CosineAttention)]
    for network, heads in networks:
        network.forward = partial(_zeros, heads)  # type: ignore[method-assign]  # until the end
    try:
        yield
    finally:
        for network, _ in networks:
            del network.forward


def _zeros(heads: int, offsets: Tensor) -> Tensor:
    return offsets.new_zeros(len(offsets), heads)


@contextmanager
def _without_fused_attention_layers() -> Iterator[None]:
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _attention_flops(query: Shape, key: Shape, value: Shape, *_args: object, **_kwargs: object) -> int:
    """`q @ k` and `attention @ v`: shapes (..., L, E), (..., S, E), (..., S, V)."""
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _deformable_convolution_flops(_images: Shape, weight: Shape, *_args: object, out_shape: Shape, **_: object) -> int:
    """As a plain convolution of the same output (B, C_out, H, W); sampling and modulation count nothing."""
    return 2 * out_shape[0] * prod(out_shape[2:]) * prod(weight)


import_module("torchvision")  # which registers torch.ops.torchvision
_FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.torchvision.deform_conv2d: _deformable_convolution_flops,
}
"""Operators that `FlopCounterMode` does not know, by what they compute."""
