"""Speed of methods of attention in one and the same backbone, in the layout of the Swin paper's Table 5.

Every method has the projections and the bias tables of `WindowAttention`, and takes and returns a grid of tokens, so
that the methods differ in nothing but what a token attends to and how that is computed. The last one is the backbone as
it is used. Weights are random. Performer, which the paper compares too, is missing: no library that is still maintained
has it.

Sliding windows are computed in two ways: a token attends to the M x M tokens around it. The naive way gathers the keys
and values of each query by itself. The faster one shares them between the queries of a block, as HaloNet does (arXiv
2103.12731): a block of M x M queries reads its neighbourhood of (2M - 1) x (2M - 1) tokens once, and a mask leaves each
query its own window. Shapes there: B images, a grid of (H, W) tokens, windows of M x M = N tokens, C channels = heads x
D.
"""

from __future__ import annotations

import math
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
from swin_dense.backbones.windows import MASKED, region_mask, window_plan
from swin_dense.benchmark.backbone import describe
from swin_dense.benchmark.peers import check_names
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


def sliding_bias(attention: WindowAttention) -> Tensor:
    """The bias (heads, N) of a token's window: what the table says of the token in the middle of a window."""
    middle = [side // 2 for side in attention.window]
    return attention.position_bias()[:, middle[0] * attention.window[1] + middle[1]]


def naive_sliding_attention(qkv: Tensor, bias: Tensor) -> Tensor:
    """Attends in sliding windows by gathering, for each query, all keys and values of its window.

    Takes qkv (B, H, W, 3, heads, D) and the bias (heads, N) of a window; returns (B, H, W, C). Windows that reach
    beyond the grid are cut off there.
    """
    batch, height, width = qkv.shape[:3]
    index, inside = _neighbours(height, width, math.isqrt(bias.shape[1]), qkv.device)
    query, key, value = qkv.flatten(1, 2).unbind(2)  # (B, H * W, heads, D)
    key, value = (part[:, index].transpose(2, 3) for part in (key, value))  # (B, H * W, heads, N, D)
    mask = (bias + MASKED * ~inside[:, None])[:, :, None].to(qkv.dtype)
    attended = functional.scaled_dot_product_attention(query[..., None, :], key, value, attn_mask=mask)
    return attended.reshape(batch, height, width, -1)


def blocked_sliding_attention(qkv: Tensor, bias: Tensor) -> Tensor:
    """What `naive_sliding_attention` computes, block by block."""
    batch, height, width, _, heads, dim = qkv.shape
    side = math.isqrt(bias.shape[1])
    rows, columns = -(-height // side), -(-width // side)
    before, reach = side // 2, 2 * side - 1
    below, right = rows * side - height, columns * side - width
    query = functional.pad(qkv[:, :, :, 0], (0, 0, 0, 0, 0, right, 0, below))
    query = query.view(batch, rows, side, columns, side, heads, dim).permute(0, 1, 3, 5, 2, 4, 6)
    after = side - 1 - before
    around = (0, 0, 0, 0, 0, 0, before, right + after, before, below + after)
    pairs = functional.pad(qkv[:, :, :, 1:], around).unfold(1, reach, side).unfold(2, reach, side)
    key, value = pairs.permute(3, 0, 1, 2, 4, 6, 7, 5).flatten(5, 6).flatten(1, 3).unbind()
    attended = functional.scaled_dot_product_attention(
        query.flatten(4, 5).flatten(0, 2),  # (B * rows * columns, heads, M * M, D)
        key,  # (B * rows * columns, heads, (2M - 1)^2, D)
        value,
        attn_mask=_block_bias(height, width, bias).to(qkv.dtype).repeat(batch, 1, 1, 1),
    )
    grid = attended.view(batch, rows, columns, heads, side, side, dim).permute(0, 1, 4, 2, 5, 3, 6)
    return grid.reshape(batch, rows * side, columns * side, heads * dim)[:, :height, :width]


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


def _neighbours(height: int, width: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places of the N tokens around each token, (H * W, N), and whether they lie inside the grid."""
    ranges = []
    for length in (height, width):
        places = torch.arange(length, device=device)[:, None] + torch.arange(side, device=device) - side // 2
        ranges.append((places.clamp(0, length - 1), (places >= 0) & (places < length)))
    (down, down_inside), (across, across_inside) = ranges
    index = down[:, None, :, None] * width + across[None, :, None, :]
    inside = down_inside[:, None, :, None] & across_inside[None, :, None, :]
    return index.flatten(2).flatten(0, 1), inside.flatten(2).flatten(0, 1)


def _block_bias(height: int, width: int, bias: Tensor) -> Tensor:
    """Bias and mask (blocks, heads, M * M, (2M - 1)^2) of the queries of each block and the tokens around them."""
    side = math.isqrt(bias.shape[1])
    reach, device = 2 * side - 1, bias.device
    offsets = torch.arange(reach, device=device) - torch.arange(side, device=device)[:, None]  # (M, 2M - 1)
    in_window = (offsets >= 0) & (offsets < side)
    place = offsets.clamp(0, side - 1)
    place = place[:, None, :, None] * side + place[None, :, None, :]
    seen = in_window[:, None, :, None] & in_window[None, :, None, :]
    own = (bias[:, place] + MASKED * ~seen).flatten(3).flatten(1, 2)

    insides = []
    for length in (height, width):
        first = torch.arange(0, length, side, device=device)[:, None] - side // 2
        places = first + torch.arange(reach, device=device)
        insides.append((places >= 0) & (places < length))
    inside = (insides[0][:, None, :, None] & insides[1][None, :, None, :]).flatten(2).flatten(0, 1)
    return own + MASKED * ~inside[:, None, None]
