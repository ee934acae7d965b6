"""The same backbone in the plain form of the paper: tensor operations alone, on images or clips of any size.

In every block the tokens are padded to whole windows, rolled, cut into windows, attended, put together again, rolled
back and cropped. Sizes enter as arithmetic, never as Python control flow or as cached indices, so a tracer may leave
batch, height and width open; and every block takes and returns a grid of tokens, so it is easy to look into. The
parameters are the backbone's own, not copies. It is slower than `SwinTransformer`, to which a test holds it, and knows
no drop path: it is for evaluation.

Shapes: B images; a grid of (H, W) tokens, or (T, H, W) in videos; windows of N tokens each, so many along each
dimension as the counts say; C channels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from swin_dense.backbones.attention import Attention, relative_position_bias, relative_position_count
from swin_dense.backbones.block import SwinBlock, SwinStage, with_norm
from swin_dense.backbones.patches import PatchEmbed, PatchMerging, resized_position_embedding
from swin_dense.backbones.rows import LayerNorm
from swin_dense.backbones.swin import SwinTransformer
from swin_dense.backbones.windows import MASKED, contiguous, fitted_window


def sharing_copy(module: nn.Module) -> nn.Module:
    """A copy of a module, whose parts can be replaced, with the same parameters and buffers."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    return copy.deepcopy(module, memo=shared)


class PlainSwin(nn.Module):
    """A `SwinTransformer` that tracers can follow; the same images give the same maps."""

    def __init__(self, backbone: SwinTransformer) -> None:
        """Shares the parameters of a backbone; nothing is copied."""
        super().__init__()
        self.feature_specs = backbone.feature_specs
        self.out_indices = backbone.out_indices
        self.patch_embed = backbone.patch_embed
        self.absolute_pos_embed = backbone.absolute_pos_embed
        stages = backbone.layers[: self.out_indices[-1] + 1]
        self.layers = nn.ModuleList(PlainStage(cast(SwinStage, stage)) for stage in stages)
        self.norms = nn.ModuleList(backbone.get_submodule(backbone.norm_name(index)) for index in self.out_indices)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps normalised images (B, in_channels, H, W), or clips, to what `SwinTransformer.forward` returns."""
        tokens = _embedded(self.patch_embed, images)
        if self.absolute_pos_embed is not None:
            tokens = tokens + resized_position_embedding(self.absolute_pos_embed, tokens.shape[1:3])
        maps: list[Tensor] = []
        for index, stage in enumerate(self.layers):
            features, tokens = stage(tokens)
            if index in self.out_indices:
                maps.append(contiguous(self.norms[len(maps)](features).movedim(-1, 1)))
        return tuple(maps)

    def blocks(self, index: int) -> list[PlainBlock | PlainMlpBlock]:
        """The blocks of a stage, counted from 0."""
        return list(cast(Iterable[PlainBlock | PlainMlpBlock], self.layers[index].get_submodule("blocks").children()))


class PlainStage(nn.Module):
    """Blocks at one resolution, and the patch merging that leads to the next."""

    def __init__(self, stage: SwinStage) -> None:
        """Shares the parameters of a stage."""
        super().__init__()
        blocks = enumerate(cast(Iterable[SwinBlock], stage.blocks))
        self.blocks = nn.ModuleList(
            (PlainMlpBlock if block.mixing == "mlp" else PlainBlock)(
                block, [shifts and index % 2 == 1 for shifts in stage.shift_windows], fit_windows=stage.fit_windows
            )
            for index, block in blocks
        )
        self.temporal = None if stage.temporal is None else PlainStage(stage.temporal)
        self.downsample = stage.downsample

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Maps tokens (B, *grid, C) to those after the blocks and those that the next stage begins with."""
        for block in self.blocks:
            tokens = block(tokens)
        if self.temporal is not None:
            tokens, _ = self.temporal(tokens)
        return tokens, tokens if self.downsample is None else _merged(self.downsample, tokens)


class PlainAttention(nn.Module):
    """Attention on a grid of tokens, in windows with so many tokens per dimension, with its norm."""

    bias_index: Tensor  # (N, N), the row of the bias table for each query and key

    def __init__(
        self, norm: LayerNorm, attention: Attention, shifted: Sequence[bool], *, fit_windows: bool, norm_last: bool
    ) -> None:
        """Shares the parameters of both; the windows are shifted along some dimensions."""
        super().__init__()
        self.norm1, self.attn, self.norms_last = norm, attention, norm_last
        self.window = attention.window
        self.shift = tuple(side // 2 if shifts else 0 for side, shifts in zip(self.window, shifted, strict=True))
        self.fit_windows = fit_windows
        rows = torch.arange(relative_position_count(self.window), device=attention.any_weight().device)
        self.register_buffer("bias_index", relative_position_bias(rows[:, None], self.window)[0], persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """What is added to tokens (B, *grid, C)."""
        return with_norm(self.norm1, self._attended, tokens, last=self.norms_last)

    def _attended(self, tokens: Tensor) -> Tensor:
        size = tokens.shape[1:-1]
        window, shift = self.window_and_shift(size)
        weights, value = self.attention_weights(*self._in_windows(tokens), window)
        attended = self.attn.proj(contiguous((weights @ value).transpose(-3, -2)).flatten(-2))
        grid, dimensions = _joined(attended, window), tuple(range(1, len(size) + 1))
        if any(shift):
            grid = grid.roll(shift, dimensions)
        for dimension, length in zip(dimensions, size, strict=True):
            grid = grid.narrow(dimension, 0, length)
        return grid

    def window_and_shift(self, grid: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Sides of the windows of a grid, and how far they are shifted along each of its dimensions."""
        if not self.fit_windows:  # whatever the grid, which a tracer leaves open
            return self.window, self.shift
        window, shift = fitted_window(grid, self.window)
        return tuple(window), tuple(step if own else 0 for step, own in zip(shift, self.shift, strict=True))

    def windows(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """What attends in windows, (B, *counts, N, C), and the mask of shifted windows, (*counts, N, N)."""
        return self._in_windows(tokens if self.norms_last else self.norm1(tokens))

    def _in_windows(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        size = tokens.shape[1:-1]
        window, shift = self.window_and_shift(size)
        grid = functional.pad(tokens, (0, 0, *_padding(size, window)))
        if any(shift):
            grid = grid.roll([-step for step in shift], tuple(range(1, len(size) + 1)))
        counts = [_ceil_div(length, side) for length, side in zip(size, window, strict=True)]
        windows = _cut(grid, counts, window)
        return windows, _mask(counts, window, shift, tokens.device) if any(shift) else None

    def attention_weights(self, windows: Tensor, mask: Tensor | None, window: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Weights (..., heads, N, N), whose rows sum to 1, and values (..., heads, N, D) of tokens (..., N, C)."""
        qkv = self.attn.projected(windows)
        query, key, value = qkv.movedim(-3, 0).transpose(-3, -2)
        table = self.attn.bias_table() if window == self.window else None
        if table is not None:
            bias = table[self.bias_index].permute(2, 0, 1)
        else:
            bias = self.attn.position_bias(window)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2) + bias
        if mask is not None:
            scores = scores + mask.unsqueeze(-3)
        return scores.softmax(-1), value


class PlainBlock(PlainAttention):
    """One Swin block on a grid of tokens (Swin paper, equation 3)."""

    def __init__(self, block: SwinBlock, shifted: Sequence[bool], *, fit_windows: bool = False) -> None:
        """Shares the parameters of a block, whose windows are shifted along some dimensions."""
        super().__init__(block.norm1, block.attn, shifted, fit_windows=fit_windows, norm_last=block.norms_last)
        self.norm2, self.mlp, self.temporal = block.norm2, block.mlp, None
        if block.temporal is not None:
            self.weight = block.temporal.weight
            self.temporal = PlainAttention(
                block.temporal.norm, block.temporal.attn, shifted, fit_windows=fit_windows, norm_last=False
            )

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens (B, *grid, C) to tokens of the same shape."""
        tokens = tokens + super().forward(tokens)
        if self.temporal is not None:
            tokens = tokens + self.weight * self.temporal(tokens)
        return tokens + with_norm(self.norm2, self.mlp, tokens, last=self.norms_last)


class PlainMlpBlock(nn.Module):
    """One Swin-MLP block on a grid of tokens, shifted by padding as the official code has it."""

    def __init__(self, block: SwinBlock, shifted: Sequence[bool], *, fit_windows: bool = False) -> None:
        """Shares the parameters of a block, whose windows are shifted along some dimensions."""
        super().__init__()
        self.norm1, self.spatial_mlp, self.norm2, self.mlp = block.norm1, block.spatial_mlp, block.norm2, block.mlp
        self.shifted = tuple(shifted)
        self.fit_windows = fit_windows

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens (B, *grid, C) to tokens of the same shape."""
        size = tokens.shape[1:-1]
        window, shift = list(self.spatial_mlp.window), [side // 2 for side in self.spatial_mlp.window]
        if self.fit_windows:
            window, shift = fitted_window(size, window)
        steps = zip(window, shift, self.shifted, strict=True)
        before = [side - step if step and shifts else 0 for side, step, shifts in steps]
        grid = functional.pad(self.norm1(tokens), (0, 0, *(part for length in before[::-1] for part in (length, 0))))
        counts = [_ceil_div(length, side) for length, side in zip(grid.shape[1:-1], window, strict=True)]
        grid = functional.pad(grid, (0, 0, *_padding(grid.shape[1:-1], window)))
        grid = _joined(self._mixed(_cut(grid, counts, window), window), window)
        for dimension, (start, length) in enumerate(zip(before, size, strict=True), start=1):
            grid = grid.narrow(dimension, start, length)
        tokens = tokens + grid
        mapped: Tensor = tokens + self.mlp(self.norm2(tokens))
        return mapped

    def _mixed(self, windows: Tensor, window: Sequence[int]) -> Tensor:
        """Mixes the tokens of windows (B, *counts, N, C)."""
        weight, bias = self.spatial_mlp.place_weights(window)
        heads = torch.unflatten(windows, -1, (self.spatial_mlp.heads, -1)).movedim((-2, -3), (0, 1))
        mixed = weight @ contiguous(heads).flatten(2) + bias[:, :, None]
        return contiguous(mixed.view(heads.shape).movedim((0, 1), (-2, -3))).flatten(-2)


def _mask(counts: Sequence[int], window: Sequence[int], shift: Sequence[int], device: torch.device) -> Tensor:
    """`MASKED` between tokens of a window, (*counts, N, N), that only the roll made neighbours."""
    regions = torch.zeros((), dtype=torch.int64, device=device)
    for count, side, step in zip(counts, window, shift, strict=True):
        beyond = (torch.arange(count * side, device=device) >= count * side - step).long()
        regions = 2 * regions[..., None] + beyond
    regions = _cut(regions[None, ..., None], counts, window)[0, ..., 0]
    return MASKED * (regions[..., :, None] != regions[..., None, :]).float()


def _cut(grid: Tensor, counts: Sequence[int], window: Sequence[int]) -> Tensor:
    """Cuts a grid of whole windows (B, *padded, C) into (B, *counts, N, C)."""
    ndim = len(window)
    split = [part for pair in zip(counts, window, strict=True) for part in pair]
    cut = grid.view(grid.shape[0], *split, grid.shape[-1])
    order = (0, *range(1, 2 * ndim, 2), *range(2, 2 * ndim + 1, 2), 2 * ndim + 1)
    return contiguous(cut.permute(order)).flatten(ndim + 1, 2 * ndim)


def _joined(windows: Tensor, window: Sequence[int]) -> Tensor:
    """Puts windows (B, *counts, N, C) together again to a grid (B, *padded, C)."""
    dimensions = tuple(range(1, len(window) + 1))
    # Each dimension of the counts goes before that of the windows, and is made one with it.
    grid = torch.unflatten(windows, -2, tuple(window)).movedim(dimensions, tuple(range(1, 2 * len(window), 2)))
    grid = contiguous(grid)
    for dimension in dimensions:
        grid = grid.flatten(dimension, dimension + 1)
    return grid


def _embedded(embed: PatchEmbed, images: Tensor) -> Tensor:
    """What `PatchEmbed` computes."""
    images = functional.pad(images, _padding(images.shape[2:], embed.patch_size))
    tokens: Tensor = embed.norm(embed.proj(images).movedim(1, -1))
    return tokens


def _merged(merging: PatchMerging, tokens: Tensor) -> Tensor:
    """What `PatchMerging` computes."""
    tokens = functional.pad(tokens, (0, 0, *_padding(tokens.shape[-3:-1], (2, 2))))
    *batch, height, width, channels = tokens.shape
    quads = tokens.view(*batch, height // 2, 2, width // 2, 2, channels)
    joined = contiguous(quads.movedim(-4, -2)).flatten(-3)
    return merging.reduced(joined)


def _padding(size: Sequence[int], sides: Sequence[int]) -> tuple[int, ...]:
    """What `pad` adds before and after each dimension, last dimension first, to make a size multiples of `sides`."""
    ends = [_ceil_div(length, side) * side - length for length, side in zip(size, sides, strict=True)]
    return tuple(part for end in reversed(ends) for part in (0, end))


def _ceil_div(size: int, side: int) -> int:
    return (size + side - 1) // side
