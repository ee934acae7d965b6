"""The same backbone in the plain form of the paper: tensor operations alone, on images of any size.

In every block the tokens are padded to whole windows, rolled, cut into windows, attended, put together again, rolled
back and cropped. Sizes enter as arithmetic, never as Python control flow or as cached indices, so a tracer may leave
batch, height and width open; and every block takes and returns a grid of tokens, so it is easy to look into. The
parameters are the backbone's own, not copies. It is slower than `SwinTransformer`, to which a test holds it, and knows
no drop path: it is for evaluation.

Shapes: B images; (H, W) pixels or tokens; windows of M x M = N tokens, in R rows of K windows; C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from swin_dense.backbones.block import SwinBlock
from swin_dense.backbones.patches import PatchEmbed, PatchMerging
from swin_dense.backbones.position import (
    relative_position_bias,
    relative_position_count,
    resized_position_embedding,
)
from swin_dense.backbones.swin import SwinStage, SwinTransformer
from swin_dense.backbones.windows import MASKED, fitted_window


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
        """Maps normalised images (B, in_channels, H, W) to what `SwinTransformer.forward` returns."""
        tokens = _embedded(self.patch_embed, images)
        if self.absolute_pos_embed is not None:
            tokens = tokens + resized_position_embedding(self.absolute_pos_embed, tokens.shape[1:3])
        maps: list[Tensor] = []
        for index, stage in enumerate(self.layers):
            features, tokens = stage(tokens)
            if index in self.out_indices:
                maps.append(_contiguous(self.norms[len(maps)](features).permute(0, 3, 1, 2)))
        return tuple(maps)

    def blocks(self, index: int) -> list[PlainBlock]:
        """The blocks of a stage, counted from 0."""
        return list(cast(Iterable[PlainBlock], self.layers[index].get_submodule("blocks").children()))


class PlainStage(nn.Module):
    """Blocks at one resolution, and the patch merging that leads to the next."""

    def __init__(self, stage: SwinStage) -> None:
        """Shares the parameters of a stage."""
        super().__init__()
        blocks = enumerate(cast(Iterable[SwinBlock], stage.blocks))
        self.blocks = nn.ModuleList(
            PlainBlock(block, shifted=index % 2 == 1 and stage.shift_windows, fit_windows=stage.fit_windows)
            for index, block in blocks
        )
        self.downsample = stage.downsample

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Maps tokens (B, H, W, C) to those after the blocks and those that the next stage begins with."""
        for block in self.blocks:
            tokens = block(tokens)
        return tokens, tokens if self.downsample is None else _merged(self.downsample, tokens)


class PlainBlock(nn.Module):
    """One Swin block on a grid of tokens (Swin paper, equation 3), of windows with `window` tokens a side."""

    bias_index: Tensor  # (N, N), the row of the bias table for each query and key

    def __init__(self, block: SwinBlock, *, shifted: bool, fit_windows: bool = False) -> None:
        """Shares the parameters of a block, with regular or shifted windows."""
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.window = block.attn.window[0]
        self.shift = self.window // 2 if shifted else 0
        self.fit_windows = fit_windows
        rows = torch.arange(relative_position_count(block.attn.window), device=block.attn.qkv.weight.device)
        self.register_buffer(
            "bias_index", relative_position_bias(rows[:, None], block.attn.window)[0], persistent=False
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens (B, H, W, C) to tokens of the same shape."""
        height, width = tokens.shape[1:3]
        window, shift = self.window_and_shift(height, width)
        weights, value = self.attention_weights(*self.windows(tokens), window)
        attended = self.attn.proj(_contiguous((weights @ value).transpose(3, 4)).flatten(4))
        grid = attended.unflatten(3, window)
        grid = _contiguous(grid.transpose(2, 3)).flatten(3, 4).flatten(1, 2)
        if any(shift):
            grid = grid.roll(shift, (1, 2))
        tokens = tokens + grid[:, :height, :width]
        mapped: Tensor = tokens + self.mlp(self.norm2(tokens))
        return mapped

    def window_and_shift(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width of the windows of a grid, and how far they are shifted down and to the right."""
        if not self.fit_windows:  # whatever the grid, which a tracer leaves open
            return (self.window, self.window), (self.shift, self.shift)
        (rows, columns), (down, across) = fitted_window((height, width), (self.window, self.window))
        return (rows, columns), (down, across) if self.shift else (0, 0)

    def windows(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """The normalised tokens in windows, (B, R, K, N, C), and the mask of shifted windows, (R, K, N, N)."""
        size = tokens.shape[1:3]
        window, shift = self.window_and_shift(*size)
        grid = functional.pad(self.norm1(tokens), (0, 0, *_padding(size, window)))
        if any(shift):
            grid = grid.roll((-shift[0], -shift[1]), (1, 2))
        rows, columns = (_ceil_div(length, side) for length, side in zip(size, window, strict=True))
        cut = grid.view(grid.shape[0], rows, window[0], columns, window[1], grid.shape[-1])
        windows = _contiguous(cut.transpose(2, 3)).flatten(3, 4)
        return windows, _mask((rows, columns), window, shift, tokens.device) if any(shift) else None

    def attention_weights(self, windows: Tensor, mask: Tensor | None, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Weights (..., heads, N, N), whose rows sum to 1, and values (..., heads, N, D) of tokens (..., N, C)."""
        qkv = self.attn.projected(windows)
        query, key, value = qkv.movedim(-3, 0).transpose(-3, -2)
        table = self.attn.relative_position_bias_table
        if table is not None and window == (self.window, self.window):
            bias = table[self.bias_index].permute(2, 0, 1)
        else:
            bias = self.attn.position_bias(window)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2) + bias
        if mask is not None:
            scores = scores + mask.unsqueeze(-3)
        return scores.softmax(-1), value


def _mask(counts: Sequence[int], window: Sequence[int], shift: Sequence[int], device: torch.device) -> Tensor:
    """`MASKED` between tokens of a window, (R, K, N, N), that only the roll made neighbours."""
    beyond_bottom, beyond_right = (
        (torch.arange(count * side, device=device) >= count * side - step).view(count, -1)
        for count, side, step in zip(counts, window, shift, strict=True)
    )
    regions = 2 * beyond_bottom[:, None, :, None].long() + beyond_right[None, :, None, :].long()
    regions = regions.flatten(2)
    return MASKED * (regions[..., :, None] != regions[..., None, :]).float()


def _embedded(embed: PatchEmbed, images: Tensor) -> Tensor:
    """What `PatchEmbed` computes."""
    images = functional.pad(images, _padding(images.shape[2:], (embed.patch_size,) * 2))
    tokens: Tensor = embed.norm(embed.proj(images).permute(0, 2, 3, 1))
    return tokens


def _merged(merging: PatchMerging, tokens: Tensor) -> Tensor:
    """What `PatchMerging` computes."""
    tokens = functional.pad(tokens, (0, 0, *_padding(tokens.shape[1:3], (2, 2))))
    batch, height, width, channels = tokens.shape
    quads = tokens.view(batch, height // 2, 2, width // 2, 2, channels)
    joined = _contiguous(quads.permute(0, 1, 3, 4, 2, 5)).flatten(3)
    merged: Tensor = merging.reduction(merging.norm(joined))
    return merged


def _padding(size: Sequence[int], sides: Sequence[int]) -> tuple[int, int, int, int]:
    """What `pad` adds left, right, top and bottom to make (H, W) multiples of `sides`."""
    bottom, right = (_ceil_div(length, side) * side - length for length, side in zip(size, sides, strict=True))
    return 0, right, 0, bottom


def _contiguous(tensor: Tensor) -> Tensor:
    """A copy whatever the strides: `contiguous` and `reshape` would ask for the sizes, which a tracer leaves open."""
    return tensor.clone(memory_format=torch.contiguous_format)


def _ceil_div(size: int, side: int) -> int:
    return (size + side - 1) // side
