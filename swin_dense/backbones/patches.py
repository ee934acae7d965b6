"""From pixels to tokens, and from one stage to the next: patch embedding and patch merging.

Shapes: B images, (H, W) pixels or tokens, C channels; tokens are channels last.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PatchEmbed(nn.Module):
    """Embeds the patches of an image that is zero-padded at the bottom and right (Swin paper, section 3.1)."""

    def __init__(self, patch_size: int, in_channels: int, embed_dim: int) -> None:
        """Creates the projection of patches of that many pixels squared, and its norm."""
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds images (B, 3, H, W) as tokens (B, ceil(H / patch), ceil(W / patch), C)."""
        height, width = images.shape[-2:]
        images = functional.pad(images, (0, -width % self.patch_size, 0, -height % self.patch_size))
        tokens: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return tokens


class PatchMerging(nn.Module):
    """Halves a token grid by joining 2x2 neighbours and doubling the channels (Swin paper, section 3.1)."""

    def __init__(self, channels: int) -> None:
        """Creates the norm over four joined tokens of that many channels and their reduction to two."""
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Merges tokens (B, H, W, C) into (B, ceil(H / 2), ceil(W / 2), 2C); odd grids are zero-padded first."""
        height, width = tokens.shape[1:3]
        if height % 2 or width % 2:
            tokens = functional.pad(tokens, (0, 0, 0, width % 2, 0, height % 2))
        batch, height, width, channels = tokens.shape
        quads = tokens.view(batch, height // 2, 2, width // 2, 2, channels)
        # Neighbours are joined in the official order (row, column) = (0, 0) (1, 0) (0, 1) (1, 1): column outermost.
        joined = quads.permute(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, width // 2, 4 * channels)
        merged: Tensor = self.reduction(self.norm(joined))
        return merged
