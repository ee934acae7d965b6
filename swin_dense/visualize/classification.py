"""Pictures of classifications: an image, or frames of a video, with the surest classes below; classes over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from swin_dense.visualize.curves import save_figure, tidy
from swin_dense.visualize.pictures import (
    LegendEntry,
    Picture,
    as_picture,
    captioned,
    enlarged,
    font_size,
    spread,
    with_legend,
)

FRAMES = 8
"""Most frames in a picture."""

CLASSES = 5
"""Curves in a plot."""

_SURE, _OTHER = (31, 119, 180), (199, 217, 233)


def draw_classification(image: Tensor, best: Sequence[tuple[str, float]], truth: str | None = None) -> Picture:
    """An image (3, H, W) uint8 RGB, or the strip of a clip, with its surest classes and their probabilities below it.

    `best` has the surest class first. The picture (H', W', 3) is enlarged by a whole factor where the image is small; a
    caption names the true class, and whether the surest one is right.
    """
    picture = enlarged(as_picture(film_strip(image)))
    entries = [
        LegendEntry(_OTHER if place else _SURE, (f"{100 * share:.1f} %",), name)
        for place, (name, share) in enumerate(best)
    ]
    drawn = with_legend(np.array(picture), entries, font_size(picture))
    if truth is None:
        return drawn
    return captioned(drawn, f"{truth}: {'right' if best[0][0] == truth else 'wrong'}")


def film_strip(image: Tensor) -> Tensor:
    """Up to `FRAMES` frames of a clip (T, 3, H, W), spread evenly, as (3, H, frames * W); images as they are."""
    return image if image.ndim == 3 else image[spread(len(image), FRAMES)].movedim(0, 2).flatten(2, 3)


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
    tidy(axes)
    save_figure(figure, output)
