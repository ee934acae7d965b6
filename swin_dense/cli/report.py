"""Tables of results for a terminal, and one JSON object for a program."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

_COMPACT: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": 0, "pad_edge": False}  # fits a terminal of 80 columns
_SHOWN_PER_KIND = 5
_COLOUR_OF = {"error": "bold red", "warning": "yellow"}


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


def miou_table(results: Mapping[str, Any]) -> Table:
    """Lays out the figures of a segmentation over the whole data set.

    Args:
        results: As `MeanIoU.compute` returns them.

    Returns:
        A table of percentages.
    """
    table = Table(title="intersection over union (IoU) and accuracy (Acc), %", title_justify="left", **_COMPACT)
    for name in ("mIoU", "mAcc", "aAcc"):
        table.add_column(name, justify="right", min_width=6, style="bold" if name == "mIoU" else None)
    table.add_row(*(_number(results[name]) for name in ("mIoU", "mAcc", "aAcc")))
    return table


def per_class_iou_table(results: Mapping[str, Any]) -> Table:
    """Lays out IoU and accuracy of every class.

    Args:
        results: As `MeanIoU.compute` returns them.

    Returns:
        A table of percentages in the data set's order of classes; "-" where a class is absent.
    """
    table = Table(title="by class, %", title_justify="left", **_COMPACT)
    table.add_column("class", style="bold")
    for name in ("IoU", "Acc"):
        table.add_column(name, justify="right", min_width=7)
    for name, figures in results["per_class"].items():
        table.add_row(escape(name), _number(figures["IoU"]), _number(figures["Acc"]))
    return table


def score_tables(scores: Mapping[str, Any]) -> tuple[Table, Table]:
    """Lays out what a metric of any task returns.

    Args:
        scores: Of `CocoMetric` or `MeanIoU`.

    Returns:
        The figures over the whole data set, and those of every class.
    """
    if "mIoU" in scores:
        return miou_table(scores), per_class_iou_table(scores)
    return ap_table(scores), per_class_table(scores)


def stats_table(record: Mapping[str, Any], *, title: str) -> Table:
    """Lays out the size of a model, whole and by part.

    Args:
        record: As `ModelStats.to_dict` gives: "params", "macs", and "parts", which has both for every part by name.
        title: What was counted, at which image size.

    Returns:
        A table in millions of parameters and billions of multiply-adds.
    """
    table = Table(title=title, title_justify="left", show_footer=True, **_COMPACT)
    table.add_column("part", style="bold", footer="whole")
    for name, unit, scale in (("params", "parameters, M", 1e6), ("macs", "multiply-adds, G", 1e9)):
        table.add_column(unit, justify="right", min_width=len(unit) + 2, footer=f"{record[name] / scale:.2f}")
    for part, size in record["parts"].items():
        table.add_row(part, f"{size['params'] / 1e6:.2f}", f"{size['macs'] / 1e9:.2f}")
    return table


def check_tables(record: Mapping[str, Any]) -> tuple[RenderableType, ...]:
    """Lays out what is in a data set and what is wrong with it: counts or histograms, findings by kind, the verdict.

    Args:
        record: Of a check's `to_dict`: "ok", "problem_counts", "problems", and either "annotations" with "counts", or
            "splits", each with the "histogram" of its stored labels.
    """
    if "splits" in record:
        return (*(_histogram(name, split) for name, split in record["splits"].items()), *_problem_tables(record))
    counts = Table(title=escape(record["annotations"]), title_justify="left", show_header=False, **_COMPACT)
    counts.add_column(style="bold")
    counts.add_column(justify="right", min_width=12)
    for name, count in record["counts"].items():
        counts.add_row(name.replace("_", " "), f"{count:,}")
    for what, count in record["left_out_of_training"].items():
        counts.add_row(f"left out of training: {what}", f"{count:,}")
    return (counts, *_problem_tables(record))


def doctor_tables(record: Mapping[str, Any]) -> tuple[RenderableType, ...]:
    """Lays out the state of an installation.

    Args:
        record: As `Diagnosis.to_dict` gives: "ok", "python", "system", "versions", "mmcv_ops", "devices", and
            "problems", each with "severity", "what" and "remedy".

    Returns:
        The versions, the devices, the problems and the verdict.
    """
    versions = Table(title=f"Python {record['python']} on {record['system']}", title_justify="left", **_COMPACT)
    versions.add_column("package", style="bold")
    versions.add_column("version", min_width=16)
    for name, version in record["versions"].items():
        versions.add_row(name, version)
    versions.add_row("mmcv's ops", record["mmcv_ops"] or "missing")
    devices = Table(title="devices", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("device", "what", "memory, GiB", "state"):
        devices.add_column(name)
    for device in record["devices"]:
        memory = "-" if device["memory_gib"] is None else f"{device['memory_gib']:.1f}"
        state = device["failure"] or ("works, bfloat16 too" if device["bf16"] else "works, no bfloat16")
        devices.add_row(*map(escape, (device["name"], device["description"], memory, state)))
    problems = [
        f"[{_COLOUR_OF[one['severity']]}]{one['severity']}:[/] {escape(one['what'])}\n    {escape(one['remedy'])}"
        for one in record["problems"]
    ]
    verdict = "[bold green]nothing would fail" if record["ok"] else "[bold red]something would fail: see above"
    return versions, devices, *problems, verdict


def print_report(record: Mapping[str, Any], *renderables: RenderableType, as_json: bool) -> None:
    """Prints results for a reader, or for a program.

    Args:
        record: The results; a number that is none (NaN) becomes null in JSON.
        *renderables: The same for a reader, such as tables.
        as_json: Put `record` on stdout as one JSON object, alone there, and the rest on stderr.

    Raises:
        ValueError: If `record` holds infinity, which is not JSON.
    """
    if as_json:
        sys.stdout.write(json.dumps(_without_nan(record), indent=2, allow_nan=False) + "\n")
    console = Console(stderr=as_json)
    for renderable in renderables:
        console.print(renderable)


def _place(problem: Mapping[str, Any]) -> str:
    ids = [f"{name} {problem[f'{name}_id']}" for name in ("image", "annotation") if problem[f"{name}_id"] is not None]
    return "\n".join(ids) or str(problem["file"])


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _problem_tables(record: Mapping[str, Any]) -> tuple[RenderableType, ...]:
    """The first problems of each kind, if there are any, and the verdict."""
    problems = Table(title="problems", title_justify="left", show_lines=False, box=SIMPLE_HEAD, pad_edge=False)
    for name in ("", "kind", "where", "what, and what to do"):
        problems.add_column(name, overflow="fold")
    shown: Counter[str] = Counter()
    for problem in sorted(record["problems"], key=lambda one: one["severity"]):
        shown[problem["kind"]] += 1
        if shown[problem["kind"]] <= _SHOWN_PER_KIND:
            row = (problem["severity"], problem["kind"], _place(problem), f"{problem['message']}; {problem['fix']}")
            problems.add_row(*map(escape, row), style=_COLOUR_OF[problem["severity"]])
    for kind, count in record["problem_counts"].items():
        if count > _SHOWN_PER_KIND:
            problems.add_row("", kind, "", f"... and {count - _SHOWN_PER_KIND:,} more of this kind")
    verdict = "[bold green]ready for training" if record["ok"] else "[bold red]errors to mend before training"
    return (problems, verdict) if record["problems"] else (verdict,)


def _histogram(name: str, split: Mapping[str, Any]) -> Table:
    title = f"{name}: {split['pairs']:,} images in {split['images']}, label maps in {split['labels']}"
    table = Table(title=escape(title), title_justify="left", **_COMPACT)
    table.add_column("label", justify="right", style="bold")
    table.add_column("class", min_width=12)
    for column in ("images", "pixels", "%"):
        table.add_column(column, justify="right", min_width=8)
    for row in split["histogram"]:
        class_name = "(ignored)" if row["ignored"] else row["class_name"] or "(no class)"
        share = f"{100 * row['pixels'] / max(split['pixels'], 1):.2f}"
        table.add_row(str(row["label"]), escape(class_name), f"{row['images']:,}", f"{row['pixels']:,}", share)
    return table
