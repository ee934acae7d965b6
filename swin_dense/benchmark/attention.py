"""Speed of methods of attention in one and the same backbone, in the layout of the Swin paper's Table 5.

Every method has the projections and the bias tables of `WindowAttention`, and takes and returns a grid of tokens, so
that the methods differ in nothing but what a token attends to and how that is computed. The last one is the backbone as
it is used. Weights are random. Performer, which the paper compares too, is missing: no library that is still maintained
has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.backbones import VARIANTS, SwinTransformer, create_backbone
from swin_dense.backbones.attention import WindowAttention
from swin_dense.backbones.block import SwinBlock, SwinStage
from swin_dense.backbones.rolled import Grid, RolledPartition
from swin_dense.backbones.windows import region_mask, window_plan
from swin_dense.benchmark.backbone import describe
from swin_dense.benchmark.peers import check_names
from swin_dense.benchmark.sliding import blocked_sliding_attention, naive_sliding_attention, sliding_bias
from swin_dense.benchmark.timing import Spread, TimeLimit, calls_per_round, log, seconds_per_call, take_turns
from swin_dense.devices import chosen_device
from swin_dense.errors import ConfigError

ROUND_SECONDS = 0.2
"""What a round lasts at least, unless a single call takes longer."""

Attend = Callable[[WindowAttention, Tensor, bool], Tensor]
"""Maps tokens (B, H, W, C) to what attention makes of them, in shifted windows where the last argument says so."""


@dataclass(frozen=True)
class Method:
    """One row of the table; a method without `attend` is the backbone as it is used."""

    title: str
    attend: Attend | None = None

    def pair(self, stage: SwinStage, tokens: Tensor) -> Tensor:
        """Attention of the first two blocks of a stage, regular and shifted, one after the other."""
        first, second = (
            cast(WindowAttention, block.attn) for block in list(cast(Iterable[SwinBlock], stage.blocks))[:2]
        )
        if self.attend is not None:
            return self.attend(second, self.attend(first, tokens, False), True)
        plan = window_plan(tokens, stage.window, [side // 2 for side in stage.window])
        rows = plan.from_grid[0](tokens.flatten(0, -2))
        for index, attention in enumerate((first, second)):
            partition = plan.partitions[index]
            rows = plan.shift(rows) if index else rows
            rows = partition.take(attention(partition.fill(rows), partition.mask))
        return plan.from_grid[1].inverse(rows).view(tokens.shape)

    def run(self, backbone: SwinTransformer, images: Tensor) -> Tensor:
        """The tokens of the last stage of a backbone whose blocks have this attention."""
        tokens: Tensor = backbone.patch_embed(images)
        for stage in cast(Iterable[SwinStage], backbone.layers):
            if self.attend is None:
                _, tokens = stage(tokens)
                continue
            for index, block in enumerate(cast(Iterable[SwinBlock], stage.blocks)):
                tokens = tokens + self.attend(cast(WindowAttention, block.attn), block.norm1(tokens), index % 2 == 1)
                tokens = tokens + block.mlp(block.norm2(tokens))
            if stage.downsample is not None:
                tokens = stage.downsample(tokens)
        return tokens


def sliding_windows(
    slide: Callable[[Tensor, Tensor], Tensor], attention: WindowAttention, tokens: Tensor, shifted: bool
) -> Tensor:
    """Sliding windows, which are not shifted."""
    attended: Tensor = attention.proj(slide(attention.projected(tokens), sliding_bias(attention)))
    return attended


def regular_windows(attention: WindowAttention, tokens: Tensor, shifted: bool) -> Tensor:
    """Regular windows, also where they should be shifted."""
    return cyclic_windows(attention, tokens, False)


def cyclic_windows(attention: WindowAttention, tokens: Tensor, shifted: bool) -> Tensor:
    """Shifted windows by a cyclic shift: as many windows as regular ones, and a mask (section 3.2)."""
    batch, *size, _ = tokens.shape
    partition = _partition(batch, tuple(size), attention.window, shifted, tokens.device)
    return _attended(attention, partition, partition.mask, tokens)


def padded_windows(attention: WindowAttention, tokens: Tensor, shifted: bool) -> Tensor:
    """Shifted windows by padding: those that the shift cuts are filled up, so there are more of them."""
    if not shifted:
        return cyclic_windows(attention, tokens, False)
    batch, height, width, _ = tokens.shape
    window, down_across = attention.window, [side // 2 for side in attention.window]
    size = [-(-length // side) * side for length, side in zip((height, width), window, strict=True)]
    top, left = (side - step if step else 0 for side, step in zip(window, down_across, strict=True))
    larger = [length + side if step else length for length, side, step in zip(size, window, down_across, strict=True)]
    grid = functional.pad(tokens, (0, 0, left, larger[1] - width - left, top, larger[0] - height - top))
    partition = _partition(batch, tuple(larger), window, False, tokens.device)
    mask = _mask_of_padding(tuple(larger), (top, left), tuple(size), window, tokens.device)
    return _attended(attention, partition, mask, grid)[:, top : top + height, left : left + width]


METHODS = {
    "sliding-naive": Method("sliding window (naive)", partial(sliding_windows, naive_sliding_attention)),
    "sliding-blocks": Method("sliding window (blocks)", partial(sliding_windows, blocked_sliding_attention)),
    "windows": Method("window (w/o shifting)", regular_windows),
    "padding": Method("shifted window (padding)", padded_windows),
    "cyclic": Method("shifted window (cyclic)", cyclic_windows),
    "plan": Method("shifted window (as used)"),
}
"""By name on the command line, in the order of the table; the last permutes rows by a window plan."""


def _attended(attention: WindowAttention, partition: RolledPartition, mask: Tensor, grid: Tensor) -> Tensor:
    windows = attention(partition.fill(grid.flatten(0, 2)), mask)
    return partition.take(windows).view(grid.shape)


@lru_cache(maxsize=32)
def _partition(
    batch: int, size: tuple[int, int], window: tuple[int, int], shifted: bool, device: torch.device
) -> RolledPartition:
    """How a grid is cut; kept, as every implementation keeps its masks."""
    counts = tuple(-(-length // side) for length, side in zip(size, window, strict=True))
    shift = [side // 2 if shifted else 0 for side in window]
    return RolledPartition(batch, Grid(size, counts), window, shift, device)


@lru_cache(maxsize=32)
def _mask_of_padding(
    size: tuple[int, int], start: tuple[int, int], inner: tuple[int, int], window: tuple[int, int], device: torch.device
) -> Tensor:
    """The mask (W, N, N) between the padding of a grid and what begins at `start` and is as large as `inner`."""
    ranges = [torch.arange(length, device=device) for length in size]
    insides = [
        (places >= first) & (places < first + length)
        for places, first, length in zip(ranges, start, inner, strict=True)
    ]
    inside = (insides[0][:, None] & insides[1]).long()
    regions = _partition(1, size, window, False, device).fill(inside.view(-1, 1))
    return region_mask(regions[:, 0, :, 0])


@dataclass(frozen=True)
class AttentionSettings:
    """What is measured.

    Attributes:
        device: Where; None takes the best there is.
        methods: Keys of `METHODS`.
        variants: Names of backbones with window attention; the first is the one whose stages are timed.
        size: Side of the square images in pixels.
        batch_size: Images of a call.
        repeats: Rounds.
        seconds_limit: After so many seconds no further backbone is begun.
        threads: On a CPU; None leaves that to torch.
    """

    device: str | None = None
    methods: Sequence[str] = tuple(METHODS)
    variants: Sequence[str] = ("swin_tiny", "swin_small", "swin_base")
    size: int = 224
    batch_size: int = 2
    repeats: int = 3
    seconds_limit: float | None = None
    threads: int | None = None


GPU_DEFAULTS = {"batch_size": 64, "repeats": 5}
"""What `AttentionSettings` are on a GPU unless said otherwise."""


def benchmark_attention(settings: AttentionSettings) -> dict[str, Any]:
    """Times each method in each stage, and in whole backbones, in float32 without gradients.

    Args:
        settings: What is measured, and how long that may take.

    Returns:
        A record ready for JSON: `methods` holds for each its title, `stage_ms` (for each stage the spread of the
        milliseconds that the attention of one regular and one shifted block takes together) and `images_per_second` by
        variant; `not_measured` names the variants for which no time was left.

    Raises:
        ConfigError: A method or a variant is unknown or has no window attention, or the device cannot be used.

    Example:
        >>> from swin_dense.benchmark.attention import AttentionSettings, benchmark_attention
        >>> settings = AttentionSettings("cpu", ["windows", "cyclic"], ["swin_nano"], 64, 1, repeats=1)
        >>> [one["title"] for one in benchmark_attention(settings)["methods"].values()]
        ['window (w/o shifting)', 'shifted window (cyclic)']
    """
    limit, device = TimeLimit(settings.seconds_limit), chosen_device(settings.device)
    check_names(settings, methods=METHODS, variants=VARIANTS)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    methods = {name: METHODS[name] for name in settings.methods}
    record: dict[str, Any] = {
        "benchmark": "attention",
        "device": describe(device),
        "settings": asdict(replace(settings, device=str(device))),
        "methods": {
            name: {"title": one.title, "stage_ms": [], "images_per_second": {}} for name, one in methods.items()
        },
        "not_measured": [],
    }
    images = torch.randn(settings.batch_size, 3, settings.size, settings.size, device=device)
    for number, variant in enumerate(settings.variants):
        if limit.left() == 0:
            record["not_measured"].append(variant)
            continue
        with device, torch.inference_mode():
            backbone = create_backbone(variant).eval()
            found = [module for module in backbone.modules() if type(module) is WindowAttention]
            if [len(attention.window) for attention in found] != [2] * sum(backbone.depths):
                raise ConfigError(f"--variants: {variant} has no window attention of the form that is compared here")
            if number == 0:
                _time_stages(methods, backbone, images, settings.repeats, record)
            log(f"{variant}: whole backbone")
            calls = {name: partial(one.run, backbone, images) for name, one in methods.items()}
            for name, spread in _timed(calls, device, settings.repeats).items():
                record["methods"][name]["images_per_second"][variant] = settings.batch_size / spread.median
    return record


def _time_stages(
    methods: dict[str, Method], backbone: SwinTransformer, images: Tensor, repeats: int, record: dict[str, Any]
) -> None:
    tokens: Tensor = backbone.patch_embed(images)
    for number, stage in enumerate(cast(Iterable[SwinStage], backbone.layers), start=1):
        log(f"stage {number}: {tokens.shape[1]} x {tokens.shape[2]} tokens of {tokens.shape[3]} channels")
        calls = {name: partial(one.pair, stage, tokens) for name, one in methods.items()}
        for name, spread in _timed(calls, images.device, repeats).items():
            record["methods"][name]["stage_ms"].append(spread.milliseconds())
        _, tokens = stage(tokens)


def _timed(calls: Mapping[str, Callable[[], Tensor]], device: torch.device, repeats: int) -> dict[str, Spread]:
    """The seconds of a call of each, all in turn, after one call that warms up and says how many fill a round."""
    contestants = {}
    for name, call in calls.items():
        call()
        count = calls_per_round(seconds_per_call(call, 1, device), ROUND_SECONDS)
        contestants[name] = partial(seconds_per_call, call, count, device)
    return {name: Spread.of(seconds) for name, seconds in take_turns(contestants, repeats).items()}
