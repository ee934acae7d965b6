"""The necks that mmdet lacks: the global self-attention of HTC++, and BiFPN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn import functional

from swin_dense.backbones.rows import Mlp
from swin_dense.errors import ConfigError

HEAD_CHANNELS = 32
"""Channels of an attention head, in every published Swin."""


class GlobalAttention(nn.Module):
    """Lets every position of the coarsest map attend to every other one, as HTC++ does; the finer maps pass unchanged.

    The Swin paper (appendix A2.2) says: "an extra global self-attention layer is appended at the output of the last
    stage", and no more; code was never released. Its sizes say which layer: HTC with a semantic branch and four
    convolutions and one linear layer in each (class-specific) box head has, at 800x1280, 147.9 M parameters and 1,028.6
    G multiply-adds on Swin-B and 256.4 M and 1,438.9 G on Swin-L. A transformer block over all tokens of the last map,
    that is attention *and* MLP, brings both to the published numbers: 160.5 M (published: 160) and 1,043.3 G (1,043),
    284.7 M (284) and 1,470.3 G (1,470). Attention alone would give 152.1 M and 265.9 M.

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


EPSILON = 1e-4
"""Keeps the weights of a sum finite when all of them are zero (EfficientDet, section 3.3)."""


class FusedSum(nn.Module):
    """Fast normalised fusion: swish(sum of w_i x_i / (epsilon + sum of w_i)), with learnt w_i >= 0."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(1, 1, 1, 1, inputs))

    def forward(self, *maps: Tensor) -> Tensor:
        """Adds maps of one shape."""
        weights = self.weights.relu().flatten()
        total = sum(weight * one for weight, one in zip(weights, maps, strict=True)) / (weights.sum() + EPSILON)
        return functional.silu(total)


class BiFPNLayer(nn.Module):
    """One pass from the coarsest level to the finest and back."""

    def __init__(self, in_channels: Sequence[int], channels: int, norm: dict[str, Any] | None) -> None:
        """Creates the sums and convolutions; levels whose width differs from `channels` are projected."""
        super().__init__()
        steps = len(in_channels) - 1
        self.lateral_convs = nn.ModuleList(
            nn.Identity() if width == channels else ConvModule(width, channels, 1, norm_cfg=norm, act_cfg=None)
            for width in in_channels
        )
        self.lateral_combine = nn.ModuleList(FusedSum(2) for _ in range(steps))
        self.lateral_combine_conv = nn.ModuleList(_smoothing(channels, norm) for _ in range(steps))
        # Beside what comes from below, each level takes its input and its way down; for the coarsest they are the same.
        self.out_combine = nn.ModuleList(FusedSum(2 if step == steps - 1 else 3) for step in range(steps))
        self.out_combine_conv = nn.ModuleList(_smoothing(channels, norm) for _ in range(steps))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Levels (B, C_i, H_i, W_i), each half as high and wide as the one before, to levels of one width."""
        inputs = [project(one) for project, one in zip(self.lateral_convs, maps, strict=True)]
        down = list(inputs)
        for level in reversed(range(len(inputs) - 1)):
            above = functional.interpolate(down[level + 1], size=inputs[level].shape[-2:], mode="nearest")
            fused = self.lateral_combine[level](inputs[level], above)
            down[level] = self.lateral_combine_conv[level](fused)
        up = [down[0]]
        for level in range(1, len(inputs)):
            own = (down[level],) if level == len(inputs) - 1 else (down[level], inputs[level])
            fused = self.out_combine[level - 1](halve(up[-1]), *own)
            up.append(self.out_combine_conv[level - 1](fused))
        return up


class BiFPN(nn.Module):
    """Several BiFPN layers, each with weights of its own, over the backbone's levels and coarser levels."""

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        num_repeat: int,
        norm_cfg: dict[str, Any] | None = None,
    ) -> None:
        """Creates `num_repeat` layers; levels beyond the backbone's, up to `num_outs`, are pooled from its last map."""
        super().__init__()
        if num_outs < len(in_channels):
            raise ConfigError(f"BiFPN.num_outs is {num_outs}, but the backbone returns {len(in_channels)} maps")
        self.num_pooled = num_outs - len(in_channels)
        widths = [[*in_channels, *[in_channels[-1]] * self.num_pooled]] + [[out_channels] * num_outs] * (num_repeat - 1)
        self.bi_fpn = nn.ModuleList(BiFPNLayer(one, out_channels, norm_cfg) for one in widths)

    def init_weights(self) -> None:
        """Xavier's uniform initialisation of every convolution."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The backbone's maps (B, C_i, H_i, W_i), finest first, to `num_outs` levels (B, out_channels, H_i, W_i)."""
        levels = list(maps)
        for _ in range(self.num_pooled):
            levels.append(halve(levels[-1]))
        for layer in self.bi_fpn:
            levels = layer(levels)
        return tuple(levels)


def halve(feature_map: Tensor) -> Tensor:
    """Max pooling to half the height and width, rounded up."""
    return functional.max_pool2d(feature_map, kernel_size=3, stride=2, padding=1)


def _smoothing(channels: int, norm: dict[str, Any] | None) -> nn.Module:
    module: nn.Module = ConvModule(channels, channels, 3, padding=1, norm_cfg=norm, act_cfg=None)
    return module
