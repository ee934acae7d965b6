"""From pixels to tokens with absolute positions, and from one stage to the next: patch embedding and patch merging.

Shapes: B images, (H, W) pixels or tokens, C channels; tokens are channels last. Clips of videos have (T, H, W), and are
merged in space alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from swin_dense.backbones.rows import Before, LayerNorm, is_plain, linear, linear_dtype
from swin_dense.backbones.windows import contiguous


class PatchEmbed(nn.Module):
    """Embeds the patches of an image that is zero-padded at the bottom and right (Swin paper, section 3.1).

    Clips are padded at their end, too.
    """

    def __init__(self, patch_size: Sequence[int], in_channels: int, embed_dim: int) -> None:
        """Creates the projection of patches of that many pixels, and frames before, and its norm."""
        super().__init__()
        self.patch_size = tuple(patch_size)
        conv: Callable[..., nn.Conv2d | nn.Conv3d] = nn.Conv2d if len(self.patch_size) == 2 else nn.Conv3d
        self.proj = conv(in_channels, embed_dim, kernel_size=self.patch_size, stride=self.patch_size)
        self.norm = LayerNorm(embed_dim)

    def forward(self, images: Tensor, grid: Sequence[int] | None = None) -> Tensor:
        """Embeds images (B, 3, H, W) or clips (B, 3, T, H, W) as tokens (B, *grid, C), one for each patch."""
        size, sides = images.shape[2:], self.patch_size
        counts = grid or [(length + side - 1) // side for length, side in zip(size, sides, strict=True)]
        padding: list[int] = []
        for count, side, length in reversed([*zip(counts, sides, size, strict=True)]):
            padding += [0, count * side - length]
        images = functional.pad(images, padding)
        if images.is_cuda and is_plain(self.proj) and not torch.compiler.is_compiling():
            embedded = self._products(images, counts)
        else:
            embedded = self.proj(images).movedim(1, -1)
        tokens: Tensor = self.norm(embedded)
        return tokens

    def _products(self, images: Tensor, counts: Sequence[int]) -> Tensor:
        """What `proj` computes, as one matrix product, which takes a sixth of its time on a GPU."""
        batch, channels, ndim = len(images), images.shape[1], len(counts)
        split = [part for pair in zip(counts, self.patch_size, strict=True) for part in pair]
        order = [0, *range(2, 2 * ndim + 2, 2), 1, *range(3, 2 * ndim + 3, 2)]
        images = images.to(linear_dtype(images)).view(batch, channels, *split)
        patches = contiguous(images.permute(order)).view(batch, *counts, -1)
        return functional.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class PatchMerging(nn.Module):
    """Halves a token grid by joining 2x2 neighbours and doubling the channels (Swin paper, section 3.1)."""

    def __init__(self, channels: int, *, norm_last: bool = False) -> None:
        """Creates a norm and the reduction of four joined tokens of that many channels to two.

        The norm is that of the four tokens, or with `norm_last`, as in Swin V2, that of the two.
        """
        super().__init__()
        self.norm_last = norm_last
        self.norm = LayerNorm((2 if norm_last else 4) * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, tokens: Tensor, grid: Sequence[int] | None = None) -> Tensor:
        """Merges tokens (B, ..., H, W, C) into (B, *grid, 2C), of half the height and width; odd ones are padded."""
        *batch, height, width, channels = tokens.shape
        rows, columns = grid[-2:] if grid else ((height + 1) // 2, (width + 1) // 2)
        if grid or height % 2 or width % 2:  # to a compiler, which is given a grid, even and odd are the same
            tokens = functional.pad(tokens, (0, 0, 0, 2 * columns - width, 0, 2 * rows - height))
        quads = tokens.view(*batch, rows, 2, columns, 2, channels)
        # Neighbours are joined in the official order (row, column) = (0, 0) (1, 0) (0, 1) (1, 1): column outermost.
        joined = contiguous(quads.movedim(-4, -2)).view(*batch, rows, columns, 4 * channels)
        return self.reduced(joined)

    def reduced(self, joined: Tensor) -> Tensor:
        """Maps joined tokens (..., 4C) to (..., 2C)."""
        if self.norm_last:
            merged: Tensor = self.norm(linear(self.reduction, joined))
            return merged
        return linear(self.reduction, joined, Before(self.norm))


def resized_position_embedding(embedding: Tensor, grid: Sequence[int]) -> Tensor:
    """An absolute position embedding (1, C, H, W) as (1, *grid, C), bicubic as in the official dense code."""
    return functional.interpolate(embedding, size=tuple(grid), mode="bicubic").permute(0, 2, 3, 1)
