"""Pictures of classified videos: some frames in a row with the surest classes below, and classes over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from swin_dense.files import atomic_write
from swin_dense.visualize.classification import draw_classification
from swin_dense.visualize.pictures import Picture

FRAMES = 6
"""Frames in a picture."""

CLASSES = 5
"""Curves in a plot."""


def draw_video(frames: Tensor, best: Sequence[tuple[str, float]], truth: str | None = None) -> Picture:
    """Frames (T, 3, H, W) uint8 RGB, spread evenly, side by side, with the names of their surest classes below."""
    places = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
    strip = frames[places.tolist()].movedim(0, 2).flatten(2, 3)  # (3, H, frames * W)
    return draw_classification(strip, best, truth)


def draw_timeline(seconds: NDArray[np.float32], class_names: Sequence[str], output: Path) -> None:
    """Draws how sure the classes are in each second, (S, K): those that are surest in one of them."""
    peaks = seconds.max(axis=0)
    shown = [int(label) for label in np.argsort(-peaks, kind="stable")[:CLASSES]]
    figure = Figure(figsize=(9, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    edges = np.arange(len(seconds) + 1)
    for label in shown:
        axes.stairs(100 * seconds[:, label], edges, label=class_names[label], linewidth=2)
    axes.set(xlabel="second", ylabel="probability, %", ylim=(0, 102), xlim=(0, len(seconds)))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    with atomic_write(output) as unfinished:
        figure.savefig(unfinished)
