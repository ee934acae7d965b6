"""Operators of heads in a form that has its counterpart among those of ONNX, on maps and batches of any size.

Shapes: maps (B, C, H, W).
"""

from __future__ import annotations

import math

from mmcv.ops import CornerPool, DeformConv2d
from torch import Tensor, nn
from torch.nn import functional

from swin_dense.backbones.plain import sharing_copy
from swin_dense.ops import torchvision_kernels

REACH = 32
"""Its square, 1024, is the most cells of a map along which a running maximum is exact: 8192 pixels at a stride of 8."""


def with_plain_operators(head: nn.Module) -> nn.Module:
    """A copy with the same parameters whose deformable convolutions, corner pooling and attention can be exported."""
    plain = sharing_copy(head)
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if isinstance(child, DeformConv2d):
                setattr(module, name, PlainDeformConv(child))
            elif isinstance(child, CornerPool):
                setattr(module, name, RunningMaximum(*child.cummax_dim_flip[child.mode]))
            elif isinstance(child, nn.Conv2d) and child.out_channels == 1:
                setattr(module, name, SingleMap(child))
            elif isinstance(child, nn.MultiheadAttention):
                setattr(module, name, PlainSelfAttention(child))
    return plain


class PlainDeformConv(nn.Module):
    """mmcv's `DeformConv2d`, which is ONNX's `DeformConv`, on maps smaller than its kernel, too."""

    def __init__(self, convolution: DeformConv2d) -> None:
        super().__init__()
        self.weight = convolution.weight
        self.geometry = (*convolution.stride, *convolution.padding, *convolution.dilation)
        self.groups = (convolution.groups, convolution.deform_groups)

    def forward(self, maps: Tensor, offsets: Tensor) -> Tensor:
        """Convolves maps, each tap moved by its offset, y before x, in cells."""
        mask, bias = maps.new_zeros(maps.shape[0], 1), self.weight.new_zeros(self.weight.shape[0])
        found: Tensor = torchvision_kernels.deform_conv2d(
            maps, self.weight, offsets, mask, bias, *self.geometry, *self.groups, False
        )
        return found


class SingleMap(nn.Module):
    """A convolution to one channel as the mean of two equal ones.

    A tracer that leaves sizes open lays the output out in memory, and of one channel asks whether it has one cell, too.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, 1, H, W)."""
        layer, bias = self.convolution, self.convolution.bias
        weight, bias = layer.weight.repeat(2, 1, 1, 1), None if bias is None else bias.repeat(2)
        both = functional.conv2d(maps, weight, bias, layer.stride, layer.padding, layer.dilation)
        return both.mean(dim=1, keepdim=True)


class RunningMaximum(nn.Module):
    """The largest value up to each cell, which ONNX has no operator for, in two steps of `REACH` cells each.

    They are max poolings, of neighbours and then of every `REACH`th cell: a tracer that leaves sizes open takes its
    time over every operator whose sizes it has to compare.
    """

    def __init__(self, dim: int, backwards: bool) -> None:
        super().__init__()
        self.dim, self.backwards = dim, backwards

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the same shape, exact along `REACH` * `REACH` cells."""
        for step in (1, REACH):
            before = step * (REACH - 1)
            sides = (0, before) if self.backwards else (before, 0)
            padded = functional.pad(maps, sides if self.dim == 3 else (0, 0, *sides), value=-math.inf)
            kernel, dilation = ((1, REACH), (1, step)) if self.dim == 3 else ((REACH, 1), (step, 1))
            maps = functional.max_pool2d(padded, kernel, stride=1, dilation=dilation)
        return maps


class PlainSelfAttention(nn.Module):
    """`nn.MultiheadAttention` of a sequence to itself, whose own form asks whether the batch is one image."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.inputs = nn.Linear(1, 1)
        self.inputs.weight, self.inputs.bias = attention.in_proj_weight, attention.in_proj_bias
        self.output, self.heads = attention.out_proj, attention.num_heads

    def forward(self, query: Tensor, *_: Tensor, **__: object) -> tuple[Tensor, None]:
        """Attends from each of (N, B, C) to all N, and gives no weights."""
        tokens = self.inputs(query.transpose(0, 1))
        queries, keys, values = tokens.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5).softmax(-1)
        return self.output((weights @ values).transpose(1, 2).flatten(2)).transpose(0, 1), None


class BatchFirst(nn.Module):
    """A module on sequences (N, B, C) that lays its output out as (B, N, C), of which rows are taken without a copy."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, rows: Tensor) -> Tensor:
        """What the module makes of (N, B, C)."""
        found: Tensor = self.module(rows.transpose(0, 1))
        return found.transpose(0, 1)
