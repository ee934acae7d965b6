"""The cells of a feature pyramid in one list, and points beside them, in float32 whatever autocast says.

Shapes: B images, L levels of (H, W) cells, P cells of all levels together, n points of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Grid:
    """Cells, finest level first, row by row."""

    xy: Tensor  # (P, 2) float32 positions in pixels: stride times column, stride times row
    strides: Tensor  # (P,) float32 pixels per cell
    counts: list[int]  # cells of each level; they add up to P

    @classmethod
    def of(cls, maps: Sequence[Tensor], strides: Sequence[int]) -> Grid:
        """The cells of a pyramid of maps (..., H, W)."""
        levels = []
        for one, stride in zip(maps, strides, strict=True):
            height, width = one.shape[-2:]
            rows, columns = (stride * torch.arange(size, device=one.device).float() for size in (height, width))
            # Copies, where `meshgrid` would give views of which a tracer asks whether a side is one cell.
            x, y = columns.repeat(height), rows[:, None].repeat(1, width).flatten()
            levels.append(torch.stack([x, y, torch.full_like(x, stride)], dim=1))
        table = torch.cat(levels)
        # Not `len`, of which a tracer makes one number for all sizes.
        return cls(table[:, :2], table[:, 2], [level.shape[0] for level in levels])

    def is_inside(self, height: int, width: int) -> Tensor:
        """(P,) bool: whether a cell lies in an image of this size, not in the padding that the batch added."""
        return (self.xy < self.xy.new_tensor([width, height])).all(dim=1)

    def select(self, mask: Tensor) -> Grid:
        """The cells of a (P,) bool mask."""
        counts = [int(level.sum()) for level in torch.split(mask, self.counts)]
        return Grid(self.xy[mask], self.strides[mask], counts)


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, C, H, W), one per level, as one table (B, P, C) in the order of the grid, in float32."""
    return torch.cat([one.flatten(2).transpose(1, 2) for one in maps], dim=1).float()


def to_points(offsets: Tensor, grid: Grid) -> Tensor:
    """Where the points of each cell lie, x and y in pixels (..., P, n, 2).

    Offsets (..., P, 2n) from the cell are in units of its stride: y and x of each point in turn, as deformable
    convolutions have it.
    """
    xy = offsets.reshape(*offsets.shape[:-1], offsets.shape[-1] // 2, 2).flip(-1)
    return xy * grid.strides[:, None, None] + grid.xy[:, None]


def to_boxes(points: Tensor) -> Tensor:
    """Boxes (..., 4) of points (..., n, 2), of which the first two are the top left and the bottom right corner."""
    return points[..., :2, :].flatten(-2)


def clipped(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes (..., 4) inside an image of this height and width."""
    x, y = boxes[..., 0::2].clamp(0, size[1]), boxes[..., 1::2].clamp(0, size[0])
    return torch.stack([x, y], dim=-1).flatten(-2)


def mask_points(points: Tensor, strides: Tensor) -> Tensor:
    """The origins (P, 2) of the masks of Mask RepPoints V2: the middle of the points (P, n, 2), half a cell on."""
    return points.mean(dim=1) + (strides / 2)[:, None]


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off where it is on; exporters cannot follow that, and so are spared it where it is off."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def apply_in_float32(layer: nn.Module, features: Tensor) -> Tensor:
    """Runs a layer in float32: bfloat16 would round a point that is 40 strides away to a quarter of a stride."""
    with without_autocast(features.device):
        exact: Tensor = layer(features.float())
        return exact
