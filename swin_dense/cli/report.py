"""Tables of results for a terminal, and one JSON object for a program."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_IN_FILES = 200
"""Columns where there is no terminal: a table is cut short at 80, and a search finds whole lines."""

_SHOWN_PER_KIND = 5
_STYLE_OF = {"error": "bold red", "warning": "yellow"}


def print_report(record: Mapping[str, Any], *shown: RenderableType, as_json: bool) -> None:
    """Prints results for a reader, or for a program.

    Args:
        record: The results; a number that is NaN becomes null in JSON.
        *shown: The same for a reader: tables, and texts that are printed as they are.
        as_json: Put `record` on stdout as one JSON object, alone there, and the rest on stderr.

    Raises:
        ValueError: If `record` holds infinity, which is not JSON.
    """
    if as_json:
        print(json.dumps(_without_nan(record), indent=2, allow_nan=False))
    console = Console(stderr=as_json)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _IN_FILES
    for one in shown:
        if isinstance(one, str):  # a path in brackets is no markup, and one that is broken cannot be copied
            console.print(one, markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(one)


def score_tables(scores: Mapping[str, Any]) -> tuple[Table, Table]:
    """The metrics over the whole data set, and those of every class, of what a metric of any task returns."""
    if "top1" in scores:
        percent = {name: 100 * scores[name] for name in ("top1", "top5")}
        return headline_table("accuracy, %", percent), per_class_accuracy_table(scores)
    if "mIoU" in scores:
        percent = {name: scores[name] for name in ("mIoU", "mAcc", "aAcc")}
        title = "intersection over union (IoU) and accuracy (Acc), %"
        return headline_table(title, percent), per_class_iou_table(scores)
    return ap_table(scores), per_class_table(scores)


def ap_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """COCO's twelve metrics, one row for boxes and one for masks; "-" where there is no ground truth of that size."""
    table = _table("COCO average precision (AP) and recall (AR), %")
    table.add_column("", style="bold")
    rows = {kind: {name: one[name] for name in one if name != "per_class"} for kind, one in results.items()}
    for name in next(iter(rows.values()), ()):
        table.add_column(name, justify="right", min_width=5, style="bold" if name == "AP" else None)
    for kind, metrics in rows.items():
        table.add_row(kind, *map(_percent, metrics.values()))
    return table


def per_class_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """The AP of every class in the data set's order, one column for boxes and one for masks."""
    table = _table("AP by class, %", "class", {f"{kind} AP": 9 for kind in results})
    by_class = [metrics["per_class"] for metrics in results.values()]
    for name in by_class[0] if by_class else ():
        table.add_row(escape(name), *(_percent(per_class[name]) for per_class in by_class))
    return table


def headline_table(title: str, percent: Mapping[str, float]) -> Table:
    """The metrics over the whole data set, in percent, the first of which counts most."""
    table = _table(title)
    for name in percent:
        table.add_column(name, justify="right", min_width=6, style=None if table.columns else "bold")
    table.add_row(*map(_number, percent.values()))
    return table


def per_class_iou_table(results: Mapping[str, Any]) -> Table:
    """IoU and accuracy of every class in the data set's order; "-" where a class is absent."""
    table = _table("by class, %", "class", {"IoU": 7, "Acc": 7})
    for name, metrics in results["per_class"].items():
        table.add_row(escape(name), _number(metrics["IoU"]), _number(metrics["Acc"]))
    return table


def per_class_accuracy_table(results: Mapping[str, Any]) -> Table:
    """The accuracy of every class with images, and what it is most often taken for."""
    table = _table("by class, %", "class", {"images": 7, "top1": 7})
    table.add_column("taken for")
    for name, one in results["per_class"].items():
        if one["images"]:
            wrong = ", ".join(f"{other} {count}" for other, count in list(one["taken_for"].items())[:3])
            table.add_row(escape(name), str(one["images"]), _number(100 * one["accuracy"]), escape(wrong))
    return table


def corruption_table(record: Mapping[str, Any], metric: str) -> Table:
    """A metric on clean and on corrupted images; `record` is that of `evaluate_corruptions`."""
    table = _table(f"{metric} on corrupted images", "", {"": 8})
    one = record[metric]
    for name, value in {"clean": one["clean"], "mPC": one["mPC"], "rPC": one["rPC"], **one["corruptions"]}.items():
        table.add_row(name, f"{value:.3f}")
    return table


def stats_table(record: Mapping[str, Any], *, title: str) -> Table:
    """The size of a model, whole and by part; `record` is that of `ModelStats.to_dict`."""
    table = _table(title, show_footer=True)
    table.add_column("part", style="bold", footer="whole")
    for name, unit, scale in (("params", "parameters, M", 1e6), ("macs", "multiply-adds, G", 1e9)):
        table.add_column(unit, justify="right", min_width=len(unit) + 2, footer=f"{record[name] / scale:.2f}")
    for part, size in record["parts"].items():
        table.add_row(part, f"{size['params'] / 1e6:.2f}", f"{size['macs'] / 1e9:.2f}")
    return table


def architecture_table(title: str, stages: Sequence[Mapping[str, Any]]) -> Table:
    """The stages of a backbone in the layout of Table 7; `stages` are those of `StageArchitecture.to_dict`."""
    table = _table(title, "stage")
    for name, width in {"rate": 4, "output": 8, "tokens": 23, "blocks": 33}.items():
        table.add_column(name, min_width=width)
    for one in stages:
        joined = _times(one["joined"])
        tokens = f"concat {joined}, {one['channels']}-d, LN"
        block = f"win {_times(one['window'])}, dim {one['channels']}, head {one['heads']}"
        rate, output = f"{one['downsampling']}x", _times(one["output"])
        table.add_row(one["name"][-1], rate, output, tokens, escape(f"[{block}] x {one['blocks']}"))
    return table


def complexity_table(record: Mapping[str, Any]) -> Table:
    """The cost of attention; `record` is that of `AttentionComplexity.to_dict`."""
    size = f"{record['height']}x{record['width']} tokens of {record['channels']} channels"
    table = _table(f"multiply-adds on {size}", "attention", {"equation": 16, "counted": 16})
    kinds = {"whole map (1)": "global_attention", f"windows of {record['window']} (2)": "window_attention"}
    for label, kind in kinds.items():
        table.add_row(label, *(f"{record[kind][name]:,}" for name in ("equation", "counted")))
    table.add_row("saved", f"{record['saved']:,}")
    return table


def check_tables(*records: Mapping[str, Any]) -> tuple[RenderableType, ...]:
    """What is in a data set and what is wrong with it, split by split, and one verdict on all of it.

    Args:
        *records: Of a check's `to_dict`, one for each split or one for all.
    """
    tables: list[RenderableType] = []
    for record in records:
        if "splits" in record:
            tables += [_histogram(name, split) for name, split in record["splits"].items()]
        else:
            tables.append(_counts(record))
        if record["problems"]:
            tables.append(_problem_table(record))
    ok = all(record["ok"] for record in records)
    return (*tables, _verdict(ok, "ready for training", "errors to fix before training"))


def _counts(record: Mapping[str, Any]) -> Table:
    counts = _table(escape(record["annotations"]), "", {"count": 12}, show_header=False)
    for name, count in record["counts"].items():
        counts.add_row(name.replace("_", " "), f"{count:,}")
    for what, count in record["left_out_of_training"].items():
        counts.add_row(f"left out of training: {what}", f"{count:,}")
    return counts


def doctor_tables(record: Mapping[str, Any]) -> tuple[RenderableType, ...]:
    """The state of an installation; `record` is that of `Diagnosis.to_dict`."""
    versions = _table(f"Python {record['python']} on {record['system']}", "package")
    versions.add_column("version", min_width=16)
    for name, version in record["versions"].items():
        versions.add_row(name, version)
    versions.add_row("mmcv's ops", record["mmcv_ops"] or "missing")
    devices = Table("device", "what", "memory, GiB", "state", title="devices", title_justify="left", box=SIMPLE_HEAD)
    for device in record["devices"]:
        memory = "-" if device["memory_gib"] is None else f"{device['memory_gib']:.1f}"
        state = device["failure"] or ("works, bfloat16 too" if device["bf16"] else "works, no bfloat16")
        devices.add_row(*map(escape, (device["name"], device["description"], memory, state)))
    problems = [
        Text.assemble((f"{one['severity']}:", _STYLE_OF[one["severity"]]), f" {one['what']}\n    {one['remedy']}")
        for one in record["problems"]
    ]
    return versions, devices, *problems, _verdict(record["ok"], "nothing would fail", "something would fail: see above")


def device_tables(record: Mapping[str, Any]) -> tuple[RenderableType, ...]:
    """How the checks of a device came out; `record` is that of `DeviceReport.to_dict`."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    checks = _table(escape(f"{record['device']}: {record['description']}"), "check")
    for name in ("state", "difference", "of at most", "seconds"):
        checks.add_column(name, justify="right")
    for one in record["checks"]:
        measured = ["-" if one[key] is None else f"{one[key]:.2g}" for key in ("difference", "tolerance")]
        row = (one["name"], "passed" if one["passed"] else "failed", *measured, f"{one['seconds']:.1f}")
        checks.add_row(*map(escape, row), style=None if one["passed"] else _STYLE_OF["error"])
    failures = [
        Text.assemble((f"{one['name']}:", _STYLE_OF["error"]), f" {one['detail']}")
        for one in record["checks"]
        if not one["passed"]
    ]
    good, bad = "it computes what the CPU computes", "it does not compute what the CPU computes: see above"
    return checks, Text(versions), *failures, _verdict(record["ok"], good, bad)


def _table(title: str, first: str | None = None, numbers: Mapping[str, int] = {}, **options: Any) -> Table:
    """A table that fits a terminal of 80 columns: a column in bold print, and numbers by heading and least width."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False, **options)
    if first is not None:
        table.add_column(first, style="bold")
    for heading, width in numbers.items():
        table.add_column(heading, justify="right", min_width=width)
    return table


def _problem_table(record: Mapping[str, Any]) -> Table:
    """The first problems of each kind."""
    problems = Table(title="problems", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("", "kind", "where", "what, and what to do"):
        problems.add_column(name, overflow="fold")
    shown: Counter[str] = Counter()
    for problem in sorted(record["problems"], key=lambda one: one["severity"]):
        shown[problem["kind"]] += 1
        if shown[problem["kind"]] <= _SHOWN_PER_KIND:
            row = (problem["severity"], problem["kind"], _place(problem), f"{problem['message']}; {problem['fix']}")
            problems.add_row(*map(escape, row), style=_STYLE_OF[problem["severity"]])
    for kind, count in record["problem_counts"].items():
        if count > _SHOWN_PER_KIND:
            problems.add_row("", kind, "", f"... and {count - _SHOWN_PER_KIND:,} more of this kind")
    return problems


def _place(problem: Mapping[str, Any]) -> str:
    ids = [f"{name} {problem[f'{name}_id']}" for name in ("image", "annotation") if problem[f"{name}_id"] is not None]
    return "\n".join(ids) or str(problem["file"])


def _verdict(ok: bool, good: str, bad: str) -> Text:
    return Text(good, "bold green") if ok else Text(bad, "bold red")


def _histogram(name: str, split: Mapping[str, Any]) -> Table:
    title = f"{name}: {split['pairs']:,} images in {split['images']}, label maps in {split['labels']}"
    table = _table(escape(title))
    table.add_column("label", justify="right", style="bold")
    table.add_column("class", min_width=12)
    for column in ("images", "pixels", "%"):
        table.add_column(column, justify="right", min_width=8)
    for row in split["histogram"]:
        class_name = "(ignored)" if row["ignored"] else row["class_name"] or "(no class)"
        share = f"{100 * row['pixels'] / max(split['pixels'], 1):.2f}"
        table.add_row(str(row["label"]), escape(class_name), f"{row['images']:,}", f"{row['pixels']:,}", share)
    return table


def _times(sides: Iterable[int]) -> str:
    return "x".join(map(str, sides))


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
