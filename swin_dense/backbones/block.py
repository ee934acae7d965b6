"""The Swin block: attention inside windows, then an MLP, each after a norm and beside a residual connection.

Shapes: W windows, B images, N tokens in a window, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import stochastic_depth

from swin_dense.backbones.attention import WindowAttention
from swin_dense.backbones.windows import Partition, window_groups

MLP_RATIO = 4
"""Hidden channels of the MLP per channel of a token, in every published Swin."""


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, for each token by itself."""

    def __init__(self, channels: int) -> None:
        """Creates the two layers.

        Args:
            channels: Channels C of a token.
        """
        super().__init__()
        self.fc1 = nn.Linear(channels, MLP_RATIO * channels)
        self.fc2 = nn.Linear(MLP_RATIO * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens (..., C) to (..., C)."""
        mapped: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return mapped


class SwinBlock(nn.Module):
    """One Swin block on tokens in window order (Swin paper, equation 3).

    Whether its windows are regular or shifted is a matter of the partition that it is called with.
    """

    def __init__(self, channels: int, heads: int, window: Sequence[int], drop_path: float) -> None:
        """Creates norms, attention and MLP.

        Args:
            channels: Channels C of a token.
            heads: Attention heads; must divide `channels`.
            window: Window size per dimension, in tokens.
            drop_path: Probability with which each of the two branches is dropped for an image in training.
        """
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)

    def forward(self, tokens: Tensor, partition: Partition) -> Tensor:
        """Runs the block on tokens (W, B, N, C) that lie in the windows of `partition`; returns the same shape."""
        if self._needs_gradient(tokens) or not tokens.is_cpu or torch.compiler.is_compiling():
            return self._run(tokens, partition.padding, partition.mask)
        output = torch.empty_like(tokens)
        for group, mask in window_groups(tokens, partition.mask):
            padding = None if partition.padding is None else partition.padding[group]
            output[group] = self._run(tokens[group], padding, mask)
        return output

    def _run(self, tokens: Tensor, padding: Tensor | None, mask: Tensor) -> Tensor:
        normed = self.norm1(tokens)
        if padding is not None:
            # Padding is zero after the norm, in every block anew, and takes part in attention like any token.
            normed = normed.masked_fill(padding, 0.0)
        tokens = tokens + self._drop_path(self.attn(normed, mask))
        return tokens + self._drop_path(self.mlp(self.norm2(tokens)))

    def _drop_path(self, branch: Tensor) -> Tensor:
        if self.drop_path == 0.0 or not self.training:
            return branch
        images_first: Tensor = stochastic_depth(branch.transpose(0, 1), self.drop_path, mode="row")
        return images_first.transpose(0, 1)

    def _needs_gradient(self, tokens: Tensor) -> bool:
        return torch.is_grad_enabled() and (
            tokens.requires_grad or any(parameter.requires_grad for parameter in self.parameters())
        )
