"""From pixels to tokens, and from one stage to the next: patch embedding and patch merging.

Shapes: B images, (H, W) pixels or tokens, C channels; tokens are channels last.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from swin_dense.backbones.windows import contiguous


class PatchEmbed(nn.Module):
    """Embeds the patches of an image that is zero-padded at the bottom and right (Swin paper, section 3.1)."""

    def __init__(self, patch_size: int, in_channels: int, embed_dim: int) -> None:
        """Creates the projection of patches of that many pixels squared, and its norm."""
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, images: Tensor, grid: Sequence[int] | None = None) -> Tensor:
        """Embeds images (B, 3, H, W) as tokens (B, *grid, C), (ceil(H / patch), ceil(W / patch))."""
        side = self.patch_size
        height, width = images.shape[-2:]
        rows, columns = grid or ((height + side - 1) // side, (width + side - 1) // side)
        images = functional.pad(images, (0, columns * side - width, 0, rows * side - height))
        tokens: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return tokens


class PatchMerging(nn.Module):
    """Halves a token grid by joining 2x2 neighbours and doubling the channels (Swin paper, section 3.1)."""

    def __init__(self, channels: int) -> None:
        """Creates the norm over four joined tokens of that many channels and their reduction to two."""
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, tokens: Tensor, grid: Sequence[int] | None = None) -> Tensor:
        """Merges tokens (B, H, W, C) into (B, *grid, 2C), (ceil(H / 2), ceil(W / 2)); odd ones are padded first."""
        batch, height, width, channels = tokens.shape
        rows, columns = grid or ((height + 1) // 2, (width + 1) // 2)
        if grid or height % 2 or width % 2:  # to a compiler, which is given a grid, even and odd are the same
            tokens = functional.pad(tokens, (0, 0, 0, 2 * columns - width, 0, 2 * rows - height))
        quads = tokens.view(batch, rows, 2, columns, 2, channels)
        # Neighbours are joined in the official order (row, column) = (0, 0) (1, 0) (0, 1) (1, 1): column outermost.
        joined = contiguous(quads.permute(0, 1, 3, 4, 2, 5)).view(batch, rows, columns, 4 * channels)
        merged: Tensor = self.reduction(self.norm(joined))
        return merged
