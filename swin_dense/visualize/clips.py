"""Pictures of what a model makes of one clip of a video: attention of a window over frames, and Grad-CAM over time.

Shapes: a clip (T, 3, H, W) uint8 RGB; a window of (frames, rows, columns) = N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from swin_dense.backbones.plain import PlainBlock
from swin_dense.errors import ConfigError
from swin_dense.visualize.curves import save_figure
from swin_dense.visualize.features import DPI, PANEL, extent_of, show_image
from swin_dense.visualize.pictures import spread

FRAMES = 8
"""Most frames in a picture of Grad-CAM."""


def window_attention(
    block: PlainBlock, tokens: Tensor, window: tuple[int, int, int] | None
) -> tuple[NDArray[np.float32], list[NDArray[np.int64]], tuple[int, int, int]]:
    """How much the token in the middle of a window attends to each token of it, the mean over heads.

    Takes the tokens (1, T, H, W, C) that a block is given, and a window's place among the counts of windows, or None
    for the middle one. Returns the weights (frames, rows, columns), which add up to 1, the places of these tokens along
    each dimension of the grid, and the middle token's place in the window.
    """
    with torch.no_grad():
        windows, mask = block.windows(tokens)
        sides, shift = block.window_and_shift(tokens.shape[1:-1])
        counts = windows.shape[1:-2]
        place = window or tuple(
            count // 2 if not step else max(count // 2 - 1, 0) for count, step in zip(counts, shift, strict=True)
        )
        if any(at >= count for at, count in zip(place, counts, strict=True)):
            raise ConfigError(f"window {place}: there are {tuple(counts)} along time, rows and columns; name another")
        weights, _ = block.attention_weights(windows[0][place], None if mask is None else mask[place], sides)
    middle = tuple(side // 2 for side in sides)
    query = (middle[0] * sides[1] + middle[1]) * sides[2] + middle[2]
    seen: NDArray[np.float32] = weights.mean(0)[query].view(sides).cpu().numpy()
    places = [
        (at * side + step + np.arange(side)) % (count * side)
        for at, side, step, count in zip(place, sides, shift, counts, strict=True)
    ]
    return seen, places, (middle[0], middle[1], middle[2])


def draw_window_attention(
    clip: Tensor, blocks: Sequence[tuple[str, PlainBlock, Tensor]], strides: tuple[int, int], path: Path,
    window: tuple[int, int, int] | None = None,
) -> None:  # fmt: skip
    """Draws attention inside a window, one row for each block and one column for each moment of the window.

    `strides` are the frames and pixels of a token. The token that attends is framed.
    """
    drawn = [(title, window_attention(block, tokens, window), tokens.shape[1:-1]) for title, block, tokens in blocks]
    columns = max(len(places[0]) for _, (_, places, _), _ in drawn)
    figure, axes = _panels(clip, len(drawn), columns, "Attention of one token to its window over time, mean over heads")
    for row, (title, (weights, places, middle), grid) in zip(axes, drawn, strict=True):
        for panel in row[len(places[0]) :]:
            panel.set_axis_off()
        for moment, (panel, at) in enumerate(zip(row[: len(places[0])], places[0], strict=True)):
            frame = min(int(at) * strides[0], len(clip) - 1)
            show_image(panel, clip[frame], f"{title}\nframe {frame}" if moment == 0 else f"frame {frame}")
            if at >= grid[0]:
                panel.set_title("padding", fontsize="medium")
                continue
            heat = np.full(grid[1:], np.nan, dtype=np.float32)
            inside = np.ix_(places[1][places[1] < grid[1]], places[2][places[2] < grid[2]])
            heat[inside] = weights[moment][np.ix_(places[1] < grid[1], places[2] < grid[2])]
            extent = extent_of(grid[1:], strides[1])
            coloured = panel.imshow(heat / weights.max(), cmap="turbo", alpha=0.6, vmin=0, vmax=1, extent=extent)
            if moment == middle[0]:
                corner = (places[2][middle[2]] * strides[1], places[1][middle[1]] * strides[1])
                panel.add_patch(Rectangle(corner, strides[1], strides[1], fill=False, color="white", linewidth=2))
            panel.set(xlim=(0, clip.shape[-1]), ylim=(clip.shape[-2], 0))
    figure.colorbar(coloured, ax=axes, shrink=0.7, label="of the block's largest weight")
    save_figure(figure, path)


def draw_heat_over_time(clip: Tensor, maps: Sequence[tuple[str, NDArray[np.float32]]], title: str, path: Path) -> None:
    """Draws heat maps (T, H, W) in 0..1 over frames of a clip, one row for each map."""
    frames = spread(len(clip), FRAMES)
    figure, axes = _panels(clip, len(maps), len(frames), title)
    for row, (name, heat) in zip(axes, maps, strict=True):
        for place, (panel, frame) in enumerate(zip(row, frames, strict=True)):
            show_image(panel, clip[frame], f"{name}\nframe {frame}" if place == 0 else f"frame {frame}")
            coloured = panel.imshow(
                heat[frame], cmap="turbo", alpha=0.55, vmin=0, vmax=1, extent=extent_of(heat.shape[1:], 1)
            )
    figure.colorbar(coloured, ax=axes, shrink=0.7, label="of the map's largest value")
    save_figure(figure, path)


def _panels(clip: Tensor, rows: int, columns: int, title: str) -> tuple[Figure, Any]:
    size = (columns * PANEL, rows * (PANEL * clip.shape[-2] / clip.shape[-1] + 0.5) + 0.5)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle(title, fontweight="bold")
    return figure, figure.subplots(rows, columns, squeeze=False)
