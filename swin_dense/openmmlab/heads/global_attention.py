"""The global self-attention of HTC++ (Swin paper, appendix A2.2), as the first part of a neck.

The paper says: "an extra global self-attention layer is appended at the output of the last stage", and no more; code
was never released. Its sizes say which layer: HTC with a semantic branch and four convolutions and one linear layer in
each (class-specific) box head has, at 800x1280, 147.9 M parameters and 1,028.6 G multiply-adds on Swin-B and 256.4 M
and 1,438.9 G on Swin-L. A transformer block over all tokens of the last map, that is attention *and* MLP, brings both
to the published numbers: 160.5 M (published: 160) and 1,043.3 G (1,043), 284.7 M (284) and 1,470.3 G (1,470). Attention
alone would give 152.1 M and 265.9 M.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from swin_dense.backbones.block import Mlp

HEAD_CHANNELS = 32
"""Channels of an attention head, in every published Swin."""


class GlobalAttention(nn.Module):
    """Lets every position of the coarsest map attend to every other one; the finer maps pass unchanged.

    One Swin block whose single window is the whole map. It has no position term of its own: maps of any size enter, and
    the features already depend on the backbone's position biases. The padding of a batch is attended to as well.
    """

    def __init__(self, in_channels: Sequence[int]) -> None:
        """Creates norms, attention and MLP for the last map, whose width is a multiple of `HEAD_CHANNELS`."""
        super().__init__()
        channels = in_channels[-1]
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)

    def init_weights(self) -> None:
        """As in Swin: truncated normal, no biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Runs the block on the last of the maps (B, C_i, H_i, W_i)."""
        *finer, last = maps
        tokens = last.flatten(2).transpose(1, 2)
        tokens = tokens + self._attend(self.norm1(tokens))
        tokens = tokens + self.mlp(self.norm2(tokens))
        return *finer, tokens.transpose(1, 2).view_as(last)

    def _attend(self, tokens: Tensor) -> Tensor:
        """Attention of each token (B, N, C) to all tokens of its image."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, -1, HEAD_CHANNELS)).permute(2, 0, 3, 1, 4).unbind()
        attended = functional.scaled_dot_product_attention(query, key, value)
        mixed: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return mixed
