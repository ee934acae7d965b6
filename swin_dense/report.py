"""Tables of results for a terminal, and one JSON object for a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table

_COMPACT: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": 0, "pad_edge": False}  # fits a terminal of 80 columns


def ap_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Lays out COCO's twelve figures, one row for boxes and one for masks.

    Args:
        results: As `CocoMetric.compute` returns them.

    Returns:
        A table of percentages, 77 columns wide; "-" where there is no ground truth of that size.
    """
    table = Table(title="COCO average precision (AP) and recall (AR), %", title_justify="left", **_COMPACT)
    table.add_column("", style="bold")
    rows = {
        iou_type: {name: value for name, value in figures.items() if name != "per_class"}
        for iou_type, figures in results.items()
    }
    for name in next(iter(rows.values()), ()):
        table.add_column(name, justify="right", min_width=5, style="bold" if name == "AP" else None)
    for iou_type, figures in rows.items():
        table.add_row(iou_type, *map(_percent, figures.values()))
    return table


def per_class_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Lays out the AP of every class, one column for boxes and one for masks.

    Args:
        results: As `CocoMetric.compute` returns them.

    Returns:
        A table of percentages in the data set's order of classes; "-" where a class has no ground truth.
    """
    table = Table(title="AP by class, %", title_justify="left", **_COMPACT)
    table.add_column("class", style="bold")
    for iou_type in results:
        table.add_column(f"{iou_type} AP", justify="right", min_width=9)
    by_class = [figures["per_class"] for figures in results.values()]
    for name in by_class[0] if by_class else ():
        table.add_row(name, *(_percent(per_class[name]) for per_class in by_class))
    return table


def print_report(record: Mapping[str, Any], *renderables: RenderableType, as_json: bool) -> None:
    """Prints results for a reader, or for a program.

    Args:
        record: The results.
        *renderables: The same for a reader, such as tables.
        as_json: Put `record` on stdout as one JSON object, alone there, and the rest on stderr.

    Raises:
        ValueError: If `record` holds NaN or infinity, which are not JSON.
    """
    if as_json:
        sys.stdout.write(json.dumps(record, indent=2, allow_nan=False) + "\n")
    console = Console(stderr=as_json)
    for renderable in renderables:
        console.print(renderable)


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"
