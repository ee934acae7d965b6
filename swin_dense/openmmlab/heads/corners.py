"""The corner branch of RepPoints V2: pooling that carries evidence to corners, and corners that correct boxes."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn import ConvModule, build_norm_layer
from mmcv.ops import CornerPool
from torch import Tensor, nn


class CornerPooling(nn.Module):
    """Corner pooling of CornerNet (arXiv 1808.01244, section 3.5): each place sees what lies along its row and column.

    Parameter names are those of the published RepPoints V2 checkpoints.
    """

    def __init__(
        self, channels: int, pooled_channels: int, directions: tuple[str, str], norm: dict[str, Any] | None
    ) -> None:
        """Creates the convolutions; directions are ("top", "left") or ("bottom", "right")."""
        super().__init__()
        self.p1_conv1 = ConvModule(channels, pooled_channels, 3, padding=1, norm_cfg=norm)
        self.p2_conv1 = ConvModule(channels, pooled_channels, 3, padding=1, norm_cfg=norm)
        self.p_conv1 = nn.Conv2d(pooled_channels, channels, 3, padding=1, bias=False)
        self.p_gn1 = _norm(norm, channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.gn1 = _norm(norm, channels)
        self.conv2 = ConvModule(channels, channels, 1, norm_cfg=norm)
        self.pool1, self.pool2 = (CornerPool(direction) for direction in directions)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape."""
        pooled = self.pool1(self.p1_conv1(features)) + self.pool2(self.p2_conv1(features))
        merged = self.p_gn1(self.p_conv1(pooled)) + self.gn1(self.conv1(features))
        corners: Tensor = self.conv2(merged.relu())
        return corners


def refine_corners(corners: Tensor, logits: Tensor, offsets: Tensor, stride: int) -> Tensor:
    """Joint inference (RepPoints V2, section 3.4): moves each corner to the strongest corner around it.

    The strongest of the four cells around a corner (N, 2), by the logits (H, W) of the heatmap, gives its place with
    its offset (2, H, W), x and y in units of the stride. Corners are in pixels, inside the image.
    """
    height, width = logits.shape
    limit = torch.tensor([width - 2, height - 2], device=corners.device).clamp(min=0)
    first = torch.minimum((corners / stride).floor().long(), limit)
    steps = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], device=corners.device)
    cells = torch.minimum(first[:, None] + steps, torch.tensor([width - 1, height - 1], device=corners.device))
    best = logits[cells[..., 1], cells[..., 0]].argmax(dim=1)
    x, y = cells[torch.arange(len(cells), device=cells.device), best].unbind(dim=1)
    moved: Tensor = (torch.stack([x, y], dim=1) + offsets[:, y, x].T) * stride
    return moved


def _norm(norm: dict[str, Any] | None, channels: int) -> nn.Module:
    layer: nn.Module = nn.Identity() if norm is None else build_norm_layer(norm, channels)[1]
    return layer
