"""Pictures of features: their principal components, and heat maps of what counts. Matplotlib draws them.

Shapes: the image has (H, W) pixels; a map has C channels and (h, w) cells of `stride` pixels each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from swin_dense.files import atomic_write
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


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure whole or not at all; the suffix names the format."""
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished)
