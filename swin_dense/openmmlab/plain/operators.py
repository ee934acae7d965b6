"""Operators of mmcv in a form that has its counterpart among those of ONNX, on maps of any size.

Shapes: maps (B, C, H, W).
"""

from __future__ import annotations

import copy
import itertools
import math

import torch
from mmcv.ops import CornerPool, DeformConv2d
from torch import Tensor, nn
from torch.nn import functional

from swin_dense.ops import torchvision_kernels

LONGEST = 1024
"""Most cells of a map along which a running maximum is exact: images of 8192 pixels at a stride of 8."""


def with_plain_operators(head: nn.Module) -> nn.Module:
    """A copy with the same parameters, in which deformable convolutions and corner pooling can be exported."""
    shared = {id(tensor): tensor for tensor in itertools.chain(head.parameters(), head.buffers())}
    plain = copy.deepcopy(head, memo=dict(shared))
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if isinstance(child, DeformConv2d):
                setattr(module, name, PlainDeformConv(child))
            elif isinstance(child, CornerPool):
                setattr(module, name, RunningMaximum(*child.cummax_dim_flip[child.mode]))
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


class RunningMaximum(nn.Module):
    """The largest value up to each cell, which ONNX has no operator for, in steps that double their reach."""

    def __init__(self, dim: int, backwards: bool) -> None:
        super().__init__()
        self.dim, self.backwards = dim, backwards

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the same shape."""
        for step in (2**power for power in range(math.ceil(math.log2(LONGEST)))):
            sides = (0, step) if self.backwards else (step, 0)
            padded = functional.pad(maps, sides if self.dim == 3 else (0, 0, *sides), value=-math.inf)
            length = maps.shape[self.dim]
            maps = torch.maximum(maps, padded.narrow(self.dim, step if self.backwards else 0, length))
        return maps
