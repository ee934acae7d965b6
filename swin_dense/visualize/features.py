"""Pictures of features and attention: principal components, heat maps, windows, position biases. Matplotlib draws them.

Shapes: the image has (H, W) pixels; a map has C channels and (h, w) cells or tokens of `stride` pixels each; a window
has M x M = N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from swin_dense.visualize.curves import save_figure
from swin_dense.visualize.pictures import FONT, escaped, font_for

PANEL = 2.6
"""Side of a small panel, in inches."""

DPI = 120


@dataclass(frozen=True)
class StageFeatures:
    """The map (C, h, w) of one stage, of which a cell has `stride` pixels a side."""

    title: str
    stride: int
    values: Tensor


def principal_components(values: Tensor, count: int = 3) -> tuple[Tensor, Tensor]:
    """The directions in which the cells of a map (C, h, w) differ most.

    Returns the centred cells along each component, (count, h, w), of which the largest value is positive, and the part
    of the variance that each component holds, (count,). Both are float64; where there are fewer channels than `count`,
    the rest is zero.
    """
    cells = values.detach().double().flatten(1)
    cells = cells - cells.mean(1, keepdim=True)
    variances, directions = torch.linalg.eigh(cells @ cells.t())
    kept = min(count, len(variances))
    components = cells.new_zeros(count, cells.shape[1])
    components[:kept] = directions.flip(1)[:, :kept].t() @ cells
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    components = torch.where(largest < 0, -components, components)
    shares = cells.new_zeros(count)
    shares[:kept] = variances.flip(0)[:kept] / variances.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return components.view(count, *values.shape[1:]), shares


def draw_components(image: Tensor, stages: Sequence[StageFeatures], path: Path) -> None:
    """Draws the first three principal components of each map as red, green and blue: alone, and over the image."""
    figure, axes = _panels(image, 2, len(stages) + 1, "First three principal components of each stage as RGB")
    show_image(axes[0][0], image, "image")
    axes[1][0].set_axis_off()
    axes[1][0].text(0.5, 0.5, "over the image", ha="center", va="center", transform=axes[1][0].transAxes)
    for column, stage in enumerate(stages, start=1):
        components, shares = principal_components(stage.values)
        colours = np.stack([_stretched(one) for one in components.numpy()], axis=-1)
        channels = stage.values.shape[0]
        title = (
            f"{stage.title} · stride {stage.stride}\n{channels} channels, {100 * float(shares.sum()):.0f} % of variance"
        )
        extent = extent_of(stage.values.shape[1:], stage.stride)
        show_image(axes[0][column], image, title)
        axes[0][column].imshow(colours, extent=extent, interpolation="nearest")
        show_image(axes[1][column], image, "")
        axes[1][column].imshow(colours, extent=extent, interpolation="bilinear", alpha=0.6)
        for row in axes:
            crop(row[column], 0, 0, image.shape[2], image.shape[1])
    save_figure(figure, path)


def draw_heat_maps(image: Tensor, maps: Mapping[str, NDArray[np.float32]], title: str, path: Path) -> None:
    """Draws heat maps (H, W) in 0..1, by their titles, over the image, under a title that they have in common."""
    figure, axes = _panels(image, 1, len(maps) + 1, title)
    show_image(axes[0][0], image, "image")
    for (name, heat), panel in zip(maps.items(), axes[0][1:], strict=True):
        show_image(panel, image, name)
        drawn = panel.imshow(heat, cmap="turbo", alpha=0.55, vmin=0, vmax=1, extent=extent_of(heat.shape, 1))
    figure.colorbar(drawn, ax=axes[0], shrink=0.7, label="of the map's largest value")
    save_figure(figure, path)


def _stretched(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """To 0..1, the outermost hundredth of the cells cut off."""
    low, high = np.percentile(values, (1, 99))
    stretched: NDArray[np.float64] = np.clip((values - low) / (high - low or 1.0), 0, 1)
    return stretched


def _panels(image: Tensor, rows: int, columns: int, title: str) -> tuple[Figure, Any]:
    """A figure of (rows, columns) panels of the image's shape."""
    aspect = image.shape[1] / image.shape[2]
    size = (columns * PANEL * 1.25, rows * PANEL * 1.25 * aspect + 1.1)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    font = font_for(title)
    other = {} if font in (None, FONT) else {"font": font}
    figure.suptitle(title if font else escaped(title), fontweight="bold", **other)
    return figure, figure.subplots(rows, columns, squeeze=False)


def show_image(axes: Any, image: Tensor, title: str) -> None:
    """Draws an image (3, H, W) uint8 RGB in pixel coordinates, without ticks."""
    axes.imshow(image.permute(1, 2, 0).cpu().numpy(), extent=extent_of(image.shape[1:], 1))
    axes.set_title(title, fontsize="medium")
    axes.set_xticks([])
    axes.set_yticks([])


def extent_of(size: Sequence[int], stride: int) -> tuple[int, int, int, int]:
    """Left, right, bottom and top in pixels, y pointing down, of a grid of (rows, columns)."""
    return 0, size[1] * stride, size[0] * stride, 0


def crop(axes: Any, left: float, top: float, right: float, bottom: float) -> None:
    """Shows only this part of a panel, given in pixels."""
    axes.set(xlim=(left, right), ylim=(bottom, top))


_HEADS_PER_ROW = 8
_MARK = "#39ff14"


@dataclass(frozen=True)
class WindowView:
    """Attention inside one window of one block.

    Attributes:
        title: Which block.
        stride: Pixels per token.
        grid: Height and width of the image in tokens.
        rows: (M,) row of tokens of the image in each row of the window; rows beyond the grid are padding.
        columns: (M,) likewise.
        weights: (heads, N, N), from query (second axis) to key (last axis); each row sums to 1.
    """

    title: str
    stride: int
    grid: tuple[int, int]
    rows: Tensor
    columns: Tensor
    weights: Tensor

    def query(self) -> tuple[int, int]:
        """Row and column in the window of its middle token, or of the real token that is nearest to it."""
        distances = [
            (torch.arange(len(one)) - len(one) // 2).abs() + len(one) * (one >= side) for one, side in self._sides()
        ]
        row, column = (int(distance.argmin()) for distance in distances)
        return row, column

    def over_grid(self, weights: Tensor) -> Tensor:
        """Puts values of the tokens of the window, (N,), in their places in the image: (h, w), NaN elsewhere."""
        values = weights.new_full(self.grid, float("nan"))
        rows, columns = (one < side for one, side in self._sides())
        inside = weights.view(len(rows), len(columns))[rows][:, columns]
        values[self.rows[rows][:, None], self.columns[columns][None, :]] = inside
        return values

    def pieces(self) -> list[tuple[int, int, int, int]]:
        """Left, top, width and height, in tokens, of the window in the image; a wrapped one is in several pieces."""
        downs, acrosses = (_runs([i for i in one.tolist() if i < side]) for one, side in self._sides())
        return [(left, top, width, height) for top, height in downs for left, width in acrosses]

    def _sides(self) -> tuple[tuple[Tensor, int], tuple[Tensor, int]]:
        return (self.rows, self.grid[0]), (self.columns, self.grid[1])


def bias_maps(table: Tensor) -> Tensor:
    """(heads, 2M - 1, 2M - 1) biases of a table ((2M - 1)^2, heads), by where the key lies as seen from the query.

    The middle is the query itself, below it are keys that lie below it.
    """
    side = math.isqrt(len(table))
    return table.detach().t().reshape(-1, side, side).flip(1, 2)


def draw_attention(image: Tensor, windows: Sequence[WindowView], path: Path) -> None:
    """Draws how the middle token of each window attends to the others, for every head, on an image (3, H, W)."""
    heads = windows[0].weights.shape[0]
    rows = math.ceil(heads / _HEADS_PER_ROW)
    columns = math.ceil(heads / rows)
    aspect = image.shape[1] / image.shape[2]
    height = len(windows) * max(rows * PANEL * 0.8, 1.5 * PANEL * aspect) + 0.8 * len(windows)
    figure = Figure(figsize=(1.5 * PANEL + columns * PANEL * 0.7, height), dpi=DPI, layout="constrained")
    sections = figure.subfigures(len(windows), 1, squeeze=False, hspace=0.04)
    for section, window in zip(sections.flat, windows, strict=True):
        section.suptitle(window.title, fontweight="bold")
        left, right = section.subfigures(1, 2, width_ratios=(1.5, 0.7 * columns))
        overview = left.subplots()
        show_image(overview, image, "window and query")
        crop(overview, 0, 0, image.shape[2], image.shape[1])
        _outline(overview, window)
        panels = right.subplots(rows, columns, squeeze=False).flatten()
        for head, axes in enumerate(panels):
            if head >= heads:
                axes.set_axis_off()
                continue
            drawn = _draw_head(axes, image, window, head)
        right.colorbar(drawn, ax=panels, shrink=0.8, label="of the head's largest weight")
    save_figure(figure, path)


def draw_biases(tables: Sequence[tuple[str, Tensor]], path: Path) -> None:
    """Draws the biases of titled tables ((2M - 1)^2, heads), by where the key lies as seen from the query."""
    heads = tables[0][1].shape[1]
    rows = math.ceil(heads / _HEADS_PER_ROW)
    columns = math.ceil(heads / rows)
    size = (max(2, columns) * 0.75 * PANEL + 1.5, len(tables) * (0.9 + rows * 0.85 * PANEL))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    sections = figure.subfigures(len(tables), 1, squeeze=False, hspace=0.04)
    for section, (title, table) in zip(sections.flat, tables, strict=True):
        section.suptitle(f"{title}: relative position bias", fontweight="bold")
        maps = bias_maps(table.cpu()).float().numpy()
        limit, reach = float(np.abs(maps).max()) or 1.0, maps.shape[1] // 2 + 0.5
        panels = section.subplots(rows, columns, squeeze=False)
        for head, axes in enumerate(panels.flatten()):
            if head >= heads:
                axes.set_axis_off()
                continue
            extent = (-reach, reach, reach, -reach)
            drawn = axes.imshow(maps[head], cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent)
            axes.set_title(f"head {head + 1}", fontsize="medium")
            axes.tick_params(labelsize="x-small")
            axes.plot(0, 0, "+", color="black", markersize=6)
        panels[-1, 0].set_xlabel("key right of query, tokens", fontsize="small")
        panels[-1, 0].set_ylabel("key below query", fontsize="small")
        section.colorbar(drawn, ax=panels, shrink=0.8, label="bias")
    save_figure(figure, path)


def _draw_head(axes: Any, image: Tensor, window: WindowView, head: int) -> Any:
    """Heat over the part of the image around the window, as parts of the head's largest weight."""
    row, column = window.query()
    weights = window.weights[head, row * len(window.columns) + column].detach().float().cpu()
    heat = window.over_grid(weights).numpy()
    show_image(axes, image, "")
    largest = float(np.nanmax(heat))
    drawn = axes.imshow(
        heat / largest, cmap="inferno", alpha=0.75, vmin=0, vmax=1, extent=extent_of(heat.shape, window.stride),
        interpolation="nearest",
    )  # fmt: skip
    pieces = np.array(window.pieces()) * window.stride
    left, top = pieces[:, :2].min(0)
    right, bottom = (pieces[:, :2] + pieces[:, 2:]).max(0)
    margin = len(window.rows) * window.stride // 4
    _outline(axes, window)
    crop(
        axes, max(left - margin, 0), max(top - margin, 0),
        min(right + margin, image.shape[2]), min(bottom + margin, image.shape[1]),
    )  # fmt: skip
    axes.set_title(f"head {head + 1} · max {largest:.2f}", fontsize="medium")
    return drawn


def _outline(axes: Any, window: WindowView) -> None:
    for left, top, width, height in window.pieces():
        corner = (left * window.stride, top * window.stride)
        size = (width * window.stride, height * window.stride)
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=_MARK, linewidth=1.8))
    row, column = window.query()
    x, y = ((int(one[index]) + 0.5) * window.stride for one, index in ((window.columns, column), (window.rows, row)))
    axes.plot(x, y, "+", color=_MARK, markersize=7, markeredgewidth=1.6)


def _runs(values: Sequence[int]) -> list[tuple[int, int]]:
    """First value and length of each run of consecutive ones."""
    starts = [index for index, value in enumerate(values) if index == 0 or value != values[index - 1] + 1]
    return [(values[a], b - a) for a, b in zip(starts, [*starts[1:], len(values)], strict=True)]
