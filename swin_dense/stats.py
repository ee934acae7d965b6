"""Sizes of a model: its parameters, and the multiply-adds of one forward pass; and the paper's own numbers beside them.

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
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from swin_dense.backbones import VARIANTS, create_backbone
from swin_dense.backbones.attention import CosineAttention, WindowAttention
from swin_dense.backbones.block import SwinStage
from swin_dense.backbones.windows import window_plan
from swin_dense.errors import ConfigError

Forward = Callable[[nn.Module], object]
"""Runs one forward pass of the module that it is given, whose inputs are made on that module's own device, for instance
`lambda model: model(torch.empty(1, 3, 800, 1280, device=next(model.parameters()).device))`."""

Shape = tuple[int, ...]

FRAMES = 32
"""Frames of the clips that Video Swin is trained on, and that its sizes are published for."""


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


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one attention layer."""

    equation: int
    counted: int  # in the running code; more than by equation (2) where padding fills the last windows


@dataclass(frozen=True)
class AttentionComplexity:
    """Attention over a whole map beside attention inside windows.

    Attributes:
        height: Rows of tokens.
        width: Tokens in a row.
        window: Side of the windows in tokens.
        channels: Channels of a token.
        global_attention: Equation 1, and `WindowAttention` with one window that is the map.
        window_attention: Equation 2, and `WindowAttention` as a block runs it.
        saved: The first equation less the second.
    """

    height: int
    width: int
    window: int
    channels: int
    global_attention: Cost
    window_attention: Cost
    saved: int

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts and numbers, for JSON."""
        return asdict(self)


def attention_complexity(height: int, width: int, window: int, channels: int) -> AttentionComplexity:
    """Evaluates equations 1 and 2, and counts the multiply-adds of the code that they are about.

    On h x w tokens of C channels, with windows of M x M tokens (Swin paper, section 3.2):

        MSA:    4 h w C^2 + 2 (h w)^2 C    (1)
        W-MSA:  4 h w C^2 + 2 M^2 h w C    (2)

    multiply-adds, softmax left out. The first term is the projections, the second both products of attention.

    Args:
        height: Rows of tokens, h.
        width: Tokens in a row, w.
        window: Side of the square windows in tokens, M.
        channels: Channels of a token, C.

    Raises:
        ConfigError: A size is below one.

    Example:
        >>> from swin_dense.stats import attention_complexity
        >>> complexity = attention_complexity(112, 112, window=7, channels=128)
        >>> complexity.saved
        40124743680
        >>> complexity.window_attention
        Cost(equation=979435520, counted=979435520)
    """
    for name, value in {"height": height, "width": width, "window": window, "channels": channels}.items():
        if value < 1:
            raise ConfigError(f"{name}={value}: must be at least 1")
    area = height * width
    projections = 4 * area * channels**2
    whole = Cost(projections + 2 * area**2 * channels, _counted((height, width), (height, width), channels))
    windows = Cost(projections + 2 * window**2 * area * channels, _counted((height, width), (window,) * 2, channels))
    saved = whole.equation - windows.equation
    return AttentionComplexity(height, width, window, channels, whole, windows, saved)


def complexity_by_image_side(window: int, channels: int) -> tuple[list[int], dict[str, list[Cost]]]:
    """Sides of square images in pixels, and both costs on their finest map, which has 4 pixels a token."""
    sides = list(range(128, 1025, 128))
    costs = [attention_complexity(side // 4, side // 4, window, channels) for side in sides]
    return sides, {
        "whole map, equation 1": [cost.global_attention for cost in costs],
        f"windows of {window}x{window}, equation 2": [cost.window_attention for cost in costs],
    }


def _counted(grid: tuple[int, int], window: tuple[int, int], channels: int) -> int:
    """Counts attention of one image's tokens, on the meta device; heads do not change the count."""
    tokens = torch.empty(1, *grid, channels, device="meta")
    with torch.device("meta"):
        attention = WindowAttention(channels, heads=1, window=window)

    def forward(module: torch.nn.Module) -> Tensor:
        plan = window_plan(tokens, window, (0, 0))
        regular = plan.partitions[0]
        rows = plan.from_grid[0](tokens.flatten(0, -2))
        return regular.take(module(regular.fill(rows), regular.mask, window))

    return count_macs(attention, forward).total


@dataclass(frozen=True)
class StageArchitecture:
    """One row of the table.

    Attributes:
        name: Of the stage's map, "stage1" is the finest.
        downsampling: Pixels per cell.
        output: Cells of the map, (H, W); of videos (T, H, W).
        joined: Pixels, or cells of the stage before, that are joined into one; of videos, pixels of frames first.
        channels: Channels of a token, "dim" in the paper.
        window: Tokens of a window, (rows, columns); of videos (frames, rows, columns).
        heads: Attention heads.
        blocks: Number of blocks.
    """

    name: str
    downsampling: int
    output: tuple[int, ...]
    joined: tuple[int, ...]
    channels: int
    window: tuple[int, ...]
    heads: int
    blocks: int

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers and lists, for JSON."""
        return asdict(self)


def architecture(variant: str, height: int | None = None, width: int | None = None) -> list[StageArchitecture]:
    """The stages of a variant, and the size of their maps for images of (height, width) pixels, or 32 such frames.

    Args:
        variant: A key of `VARIANTS`.
        height: Of the images; None takes the size that the variant is pre-trained at.
        width: Of the images; None takes the height.

    Raises:
        ConfigError: The variant is unknown.

    Example:
        >>> from swin_dense.stats import architecture
        >>> for stage in architecture("swin_tiny"):
        ...     print(stage.downsampling, stage.output, stage.channels, stage.window, stage.heads, stage.blocks)
        4 (56, 56) 96 (7, 7) 3 2
        8 (28, 28) 192 (7, 7) 6 2
        16 (14, 14) 384 (7, 7) 12 6
        32 (7, 7) 768 (7, 7) 24 2
    """
    with torch.device("meta"):
        backbone = create_backbone(variant)
        height = VARIANTS[variant].pretrain_image_size if height is None else height
        with torch.inference_mode():
            frames = () if backbone.feature_specs[0].temporal_stride is None else (FRAMES,)
            maps = backbone(torch.empty(1, 3, *frames, height, height if width is None else width))
    stages: list[StageArchitecture] = []
    layers = cast(Iterable[SwinStage], backbone.layers)
    for spec, features, stage in zip(backbone.feature_specs, maps, layers, strict=True):
        heads, blocks = spec.channels // stage.head_dim, len(stage.blocks)
        size, joined = tuple(features.shape[2:]), (2, 2) if stages else backbone.patch_embed.patch_size
        stages.append(
            StageArchitecture(spec.name, spec.stride, size, joined, spec.channels, stage.window, heads, blocks)
        )
    return stages
