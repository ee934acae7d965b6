"""Curves for people to look at: of a training run, and of the cost of attention."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from swin_dense.errors import DataError
from swin_dense.files import atomic_write


def draw_curves(metrics_csv: Path, output: Path) -> None:
    """Draws the losses over the steps and the scores of the validations of a training run; epochs count from 1.

    The table has the columns "step" and "epoch" (from 0) and, mostly empty, those of metrics: "train/loss...", and
    "val/..._AP" or "val/top1" (0..1) or "val/mIoU" (percent). The suffix of the output names the format, such as .png
    or .svg.
    """
    table = read_metrics(metrics_csv)
    figure = Figure(figsize=(11, 4.2), dpi=120, layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for name in sorted(name for name in table if name.startswith("train/") and "loss" in name):
        steps, values = points(table["step"], table[name])
        is_total = name == "train/loss"
        (line,) = losses.plot(
            steps, running_mean(values), label=name[6:], linewidth=2 if is_total else 1, zorder=2 + is_total
        )
        losses.plot(steps, values, color=line.get_color(), alpha=0.2, linewidth=0.7)
    for name in sorted(name for name in table if name.startswith("val/") and name.endswith(("_AP", "/mIoU", "/top1"))):
        in_percent = name.endswith("/mIoU")
        when, values = points(table["step"] if in_percent else table["epoch"] + 1, table[name])
        scored = values >= 0  # -1 says that there was nothing to find
        shown = values[scored] if in_percent else 100 * values[scored]
        scores.plot(when[scored], shown, marker="o", markersize=4, label=name[4:].replace("_", " "))
        scores.set(
            xlabel="step" if in_percent else "epoch",
            ylabel=f"{name[-4:] if name[-4:] in ('mIoU', 'top1') else 'AP'}, %",
        )
    losses.set(title="training loss, smoothed", xlabel="step", ylabel="loss")
    losses.set_ylim(bottom=0)
    scores.set(title="validation", ylim=(0, 100))
    scores.xaxis.get_major_locator().set_params(integer=True)
    for axes in (losses, scores):
        tidy(axes)
        if not axes.lines:
            axes.text(0.5, 0.5, "nothing recorded yet", ha="center", transform=axes.transAxes)
    save_figure(figure, output)


def draw_complexity(
    sides: Sequence[int], equations: Mapping[str, Sequence[int]], counted: Sequence[Sequence[int]], output: Path
) -> None:
    """Draws multiply-adds over the sides of images in pixels: a line for each equation, and as dots what was counted.

    The suffix of the output names the format, as in `draw_curves`.
    """
    figure = Figure(figsize=(6.4, 4.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for (label, by_equation), by_counting in zip(equations.items(), counted, strict=True):
        (line,) = axes.plot(sides, by_equation, label=label)
        axes.plot(sides, by_counting, "o", color=line.get_color(), markersize=4, label="the same, counted in the code")
    axes.set(title="attention on the finest map", xlabel="image side, pixels", ylabel="multiply-adds", yscale="log")
    tidy(axes)
    save_figure(figure, output)


def tidy(axes: Axes) -> None:
    """Gives a plot a faint grid, no frame, and a legend where it has curves."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize="small")


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure whole or not at all; the suffix names the format."""
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished)


def read_metrics(path: Path) -> dict[str, NDArray[np.float64]]:
    """The columns of a CSV file of numbers, by name; NaN where a cell is empty."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        table = {name: np.array([float(row[name] or "nan") for row in rows]) for name in (rows[0] if rows else ())}
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: is not a table of training metrics ({error})") from error
    if rows and not {"step", "epoch"} <= table.keys():
        raise DataError(f"{path}: has no columns 'step' and 'epoch', so it is not a table of training metrics")
    return table


def points(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The points of a curve that have both numbers."""
    given = np.isfinite(x) & np.isfinite(y)
    return x[given], y[given]


def running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over a centred window of a twentieth of the curve, narrower towards its ends."""
    reach = len(values) // 40
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    smoothed: NDArray[np.float64] = (total[last] - total[first]) / (last - first)
    return smoothed
