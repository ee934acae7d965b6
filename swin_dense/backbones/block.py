"""The Swin block: attention inside windows, then an MLP, each after a norm and beside a residual connection.

Swin-MLP has its mixing in place of attention.

Shapes: R rows of C channels, the real tokens of a batch in window order; W windows, B images, N tokens in a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from swin_dense.backbones.attention import WindowAttention
from swin_dense.backbones.gridded_attention import GridPartition
from swin_dense.backbones.rolled import RolledPartition
from swin_dense.backbones.spatial_mlp import SpatialMlp
from swin_dense.backbones.windows import Partition

MLP_RATIO = 4
"""Hidden channels of the MLP per channel of a token, in every published Swin."""


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, for each token by itself."""

    def __init__(self, channels: int) -> None:
        """Creates the two layers."""
        super().__init__()
        self.fc1 = nn.Linear(channels, MLP_RATIO * channels)
        self.fc2 = nn.Linear(MLP_RATIO * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens (..., C) to (..., C)."""
        mapped: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return mapped


@dataclass(frozen=True)
class StageOptions:
    """What the blocks of a stage have in common; `SwinTransformer` says what its options of these names do."""

    channels: int
    heads: int
    window: tuple[int, ...]
    shift_windows: bool = True
    relative_position_bias: bool = True
    appearance_term: bool = True
    mixing: str = "attention"


class SwinBlock(nn.Module):
    """One Swin block on tokens in window order (Swin paper, equation 3), regular or shifted as its partition says."""

    def __init__(self, options: StageOptions, drop_path: float) -> None:
        """Creates norms, attention and MLP; in training each branch is dropped for an image with `drop_path`."""
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(options.channels)
        self.mixing = options.mixing
        if options.mixing == "mlp":
            self.spatial_mlp = SpatialMlp(options.heads, options.window)
        else:
            self.attn = WindowAttention(
                options.channels,
                options.heads,
                options.window,
                relative_position_bias=options.relative_position_bias,
                appearance_term=options.appearance_term,
            )
        self.norm2 = nn.LayerNorm(options.channels)
        self.mlp = Mlp(options.channels)

    def forward(self, rows: Tensor, partition: Partition | RolledPartition | GridPartition) -> Tensor:
        """Runs the block on rows (R, C) that lie in the windows of `partition`; returns the same shape."""
        # Groups are for the cache of a CPU, and need values to be read.
        if not isinstance(partition, Partition) or not _on_cpu_with_values(rows) or needs_gradient(self, rows):
            return self._run(rows, partition)
        output = torch.empty_like(rows)
        for group, group_partition in partition.groups():
            output[group] = self._run(rows[group], group_partition)
        return output

    def _run(self, rows: Tensor, partition: Partition | RolledPartition | GridPartition) -> Tensor:
        # Padding is zero after the norm of each block, and takes part in attention like any token.
        normed = self.norm1(rows)
        # What autocast is going to round is rounded before it moves: fewer bytes.
        tokens = partition.fill(normed.to(linear_dtype(normed)))
        if isinstance(partition, GridPartition):
            attended = self.attn.on_grid(tokens, partition.window, partition.shift)
        elif self.mixing == "mlp":
            attended = self.spatial_mlp(tokens, partition.mask, partition.window)
        else:
            attended = self.attn(tokens, partition.mask, partition.window)
        rows = rows + self._drop_path(partition.take(attended), partition)
        return rows + self._drop_path(self.mlp(self.norm2(rows)), partition)

    def _drop_path(self, branch: Tensor, partition: Partition | RolledPartition | GridPartition) -> Tensor:
        """Zeroes a branch (R, C) for some images, and scales it for the others so that its mean stays."""
        if self.drop_path == 0.0 or not self.training:
            return branch
        windows, batch, length = partition.shape
        keep = 1.0 - self.drop_path
        scales = branch.new_empty(batch).bernoulli_(keep).div_(keep)
        return branch * partition.take(scales[:, None, None].expand(windows, batch, length, 1))


def needs_gradient(block: nn.Module, rows: Tensor) -> bool:
    """Whether a backward pass will come through: frozen blocks on the output of frozen blocks keep nothing for one."""
    return torch.is_grad_enabled() and (
        rows.requires_grad or any(parameter.requires_grad for parameter in block.parameters())
    )


def _on_cpu_with_values(rows: Tensor) -> bool:
    """Whether rows can be handled in groups: tracers, which know shapes alone, and GPUs take all at once."""
    return rows.is_cpu and type(rows) is Tensor


def linear_dtype(tokens: Tensor) -> torch.dtype:
    """The type in which the next linear layer computes: that of autocast, or else that of the tokens."""
    device = tokens.device.type
    # Compilers of PyTorch before 2.12 stop at this question, whose answer is yes on all of their devices.
    may_cast = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device)
    if tokens.dtype == torch.float64 or not may_cast or not torch.is_autocast_enabled(device):
        return tokens.dtype
    return torch.get_autocast_dtype(device)
