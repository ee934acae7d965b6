"""Charts as SVG whose ink follows the page, light or dark. Matplotlib draws them."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib import rcsetup
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from swin_dense.report.page import Chart
from swin_dense.visualize.curves import running_mean

COLOURS = ("#3d7dd8", "#e0812f", "#2fa374", "#c9539b", "#8d74c9", "#b79a1f", "#3aa9b8", "#d4545f")
"""Of curves: apart from each other for most eyes, and legible on white as on black."""

INK = "#010203"
"""Drawn with in place of the page's own ink, which is put in for it afterwards."""

STYLE = "<style>svg{color:#24292f}@media(prefers-color-scheme:dark){svg{color:#d5dae0}}</style>"
"""A picture does not see the style of the page that it is in."""

MOST_CLASSES = 30
"""Names that fit beside a chart."""

Curve = tuple[Any, Any]
"""x and y of a line's points."""


OPTIONS: Any = {
    "svg.fonttype": "none",  # texts stay texts, in the reader's own fonts
    "svg.hashsalt": "report",  # the same chart gives the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # class names may hold dollars
    "axes.prop_cycle": rcsetup.cycler("color", COLOURS),
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "axes.axisbelow": True,
    "legend.frameon": False,
}
"""Matplotlib's settings while a chart is drawn."""


@contextmanager
def _in_style() -> Iterator[None]:
    with matplotlib.rc_context(OPTIONS):
        yield


def _axes(width: float = 5.2, height: float = 3.4) -> Any:
    """Axes to draw on, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    for background in (figure, axes):
        background.patch.set_alpha(0)
    return axes


def _chart(axes: Any, title: str, note: str, wide: bool = False) -> Chart:
    """What was drawn."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8)
    file = io.StringIO()
    axes.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue().replace(INK, "currentColor")
    text = re.sub(r"(<svg[^>]*>)", rf"\1{STYLE}", text, count=1)
    encoded = base64.b64encode(text.encode("utf-8")).decode("ascii")
    return Chart(f"data:image/svg+xml;base64,{encoded}", title, note, wide)


@_in_style()
def lines(title: str, x: str, y: str, curves: Mapping[str, Curve], *, note: str = "", **options: Any) -> Chart:
    """Curves by name.

    `options` are `smoothed` (pale as they are, and their running mean), `marker`, and settings of matplotlib's axes
    such as `ylim`.
    """
    smoothed, marker = options.pop("smoothed", False), options.pop("marker", None)
    axes = _axes()
    for name, (where, values) in curves.items():
        drawn = running_mean(np.asarray(values, dtype=float)) if smoothed else values
        (line,) = axes.plot(where, drawn, label=name, linewidth=1.8, marker=marker, markersize=4)
        if smoothed:
            axes.plot(where, values, color=line.get_color(), alpha=0.25, linewidth=0.7)
    axes.set(xlabel=x, ylabel=y, **options)
    return _chart(axes, title, note)


@_in_style()
def bars(title: str, x: str, rows: Mapping[str, Sequence[float]], names: Sequence[str], *, note: str = "") -> Chart:
    """Horizontal bars, the first on top: for each name a number of every row."""
    thickness = 0.8 / len(rows)
    axes = _axes(5.2, max(2.4, 0.9 + len(names) * max(0.26, 0.2 * len(rows))))
    places = np.arange(len(names))[::-1]
    for at, (row, values) in enumerate(rows.items()):
        shift = (len(rows) - 1) / 2 - at
        drawn = np.nan_to_num(np.asarray(values, dtype=float))
        axes.barh(places + shift * thickness, drawn, thickness * 0.92, label=row if len(rows) > 1 else None)
        for place, value in zip(places, values, strict=True):
            text = "–" if np.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
            axes.annotate(
                text,
                (0 if np.isnan(value) else value, place + shift * thickness),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
            )
    axes.set_yticks(places, names)
    axes.set_xlabel(x)
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")
    return _chart(axes, title, note)


@_in_style()
def heat(
    title: str,
    matrix: NDArray[Any],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    labels: tuple[str, str] = ("true", "predicted"),
    note: str = "",
) -> Chart:
    """Shares of 0..1 as squares, the fuller the more; `labels` say what rows and columns are."""
    count = len(rows)
    side = min(10.6, 2.2 + 0.33 * count)
    wide = side > 5.4
    fade = np.ones((256, 4))
    fade[:, :3] = matplotlib.colors.to_rgb(COLOURS[0])
    fade[:, 3] = np.linspace(0, 1, 256)
    axes = _axes(max(side, 5.2), max(3.4, side * 0.92))
    axes.pcolormesh(matrix, cmap=ListedColormap(fade), vmin=0, vmax=1, rasterized=count > MOST_CLASSES)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90)
    axes.set_yticks(np.arange(count) + 0.5, rows)
    axes.tick_params(length=0, labelsize=8 if count <= 20 else 7)
    axes.set(xlabel=labels[1], ylabel=labels[0])
    axes.grid(visible=False)
    if count <= 14:
        _write_shares(axes, matrix)
    return _chart(axes, title, note, wide)


def _write_shares(axes: Axes, matrix: NDArray[Any]) -> None:
    for (row, column), share in np.ndenumerate(matrix):
        if share >= 0.005:
            ink = "white" if share > 0.6 else INK
            axes.text(column + 0.5, row + 0.5, f"{100 * share:.0f}", ha="center", va="center", fontsize=7.5, color=ink)


@_in_style()
def reliability(bins: Sequence[Mapping[str, float]], note: str) -> Chart:
    """How often predictions of a confidence are right, beside how often they ought to be."""
    axes = _axes()
    filled = [one for one in bins if one["count"]]
    middles = [(one["bin_lower"] + one["bin_upper"]) / 2 for one in filled]
    width = 0.92 * (bins[0]["bin_upper"] - bins[0]["bin_lower"])
    axes.bar(middles, [one["avg_accuracy"] for one in filled], width, label="are right")
    most = max((one["count"] for one in filled), default=1)
    axes.bar(
        middles,
        [-0.18 * one["count"] / most for one in filled],
        width,
        color=INK,
        alpha=0.25,
        label="how many there are",
    )
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.5, linewidth=1, linestyle="--", label="would be honest")
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1), ylim=(-0.2, 1.02))
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    return _chart(axes, "calibration of the confidence", note)


@_in_style()
def histogram(title: str, x: str, y: str, groups: Mapping[str, NDArray[Any]], bins: Any, **options: Any) -> Chart:
    """How many values lie in each bin, for one group or several, as shares where there are several."""
    note = options.pop("note", "")
    axes = _axes()
    for name, values in groups.items():
        counts, edges = np.histogram(values, bins)
        shares = counts / max(counts.sum(), 1) if len(groups) > 1 else counts
        axes.stairs(shares, edges, fill=len(groups) == 1, alpha=0.9, linewidth=1.8, label=name or None)
    axes.set(xlabel=x, ylabel=y, **options)
    if options.get("xscale") == "log":  # plain numbers, as formulas are off
        axes.xaxis.set_major_locator(LogLocator(base=2))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    return _chart(axes, title, note)
