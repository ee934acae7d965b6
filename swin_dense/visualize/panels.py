"""Figures of several panels around one image, drawn in pixel coordinates.

Shapes: the image is (3, H, W) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from swin_dense.files import atomic_write

PANEL = 2.6
"""Side of a small panel, in inches."""

DPI = 120


def panels(image: Tensor, rows: int, columns: int, title: str) -> tuple[Figure, Any]:
    """A figure of equal panels of the image's shape.

    Args:
        image: (3, H, W).
        rows: Of panels.
        columns: Likewise.
        title: Over all of them.

    Returns:
        The figure and its panels, (rows, columns).
    """
    aspect = image.shape[1] / image.shape[2]
    size = (columns * PANEL * 1.25, rows * PANEL * 1.25 * aspect + 1.1)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle(title, fontweight="bold")
    return figure, figure.subplots(rows, columns, squeeze=False)


def show_image(axes: Any, image: Tensor, title: str) -> None:
    """Draws the image in pixel coordinates, without ticks.

    Args:
        axes: Where to.
        image: (3, H, W).
        title: Of the panel.
    """
    axes.imshow(image.permute(1, 2, 0).cpu().numpy(), extent=extent_of(image.shape[1:], 1))
    axes.set_title(title, fontsize="medium")
    axes.set_xticks([])
    axes.set_yticks([])


def extent_of(size: Sequence[int], stride: int) -> tuple[int, int, int, int]:
    """Left, right, bottom and top of a grid in pixels, y pointing down.

    Args:
        size: Rows and columns of the grid.
        stride: Pixels per cell.
    """
    return 0, size[1] * stride, size[0] * stride, 0


def crop(axes: Any, left: float, top: float, right: float, bottom: float) -> None:
    """Shows only this part of a panel, given in pixels."""
    axes.set(xlim=(left, right), ylim=(bottom, top))


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure whole or not at all; the suffix names the format."""
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished)
