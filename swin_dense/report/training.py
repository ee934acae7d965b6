"""What a report shows of trainings: curves, what differs between configs, speed and memory, versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from swin_dense.report import charts
from swin_dense.report.page import Block, Section, Table, number
from swin_dense.visualize.curves import points, read_metrics

HEADLINES = ("_AP", "/mIoU", "/top1")
"""Ends of the names of the metrics that are compared between runs."""


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says of a training.

    Attributes:
        name: What the run is called on the page.
        metrics: The columns of metrics.csv; empty where there is none.
        settings: Of its config, by dotted key.
        facts: Of run.json; empty likewise.
        speed: By name, how quick the model is and how much memory it takes, as text.
        scores: The headline scores, in percent.
    """

    name: str
    metrics: Mapping[str, NDArray[Any]]
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    speed: Mapping[str, str]
    scores: Mapping[str, float]


def metrics_of(run: Path) -> dict[str, NDArray[Any]]:
    """The columns of a run's metrics; nothing where it has not written any."""
    path = run / "metrics.csv"
    return read_metrics(path) if path.is_file() else {}


def curve_sections(runs: Sequence[RunRecord]) -> list[Section]:
    """Losses, learning rate and scores over the steps; of several runs, the same curve of each in one chart."""
    blocks: list[Block] = []
    if len(runs) == 1:
        blocks += _curves_of(runs[0].metrics)
    else:
        names = list(dict.fromkeys(name for run in runs for name in run.metrics))
        wanted = [name for name in names if name.startswith("train/")]
        wanted += [name for name in names if name.startswith("val/") and name.endswith(HEADLINES)]
        for name in wanted:
            curves = {run.name: _curve(run.metrics, name) for run in runs if name in run.metrics}
            kept = {label: one for label, one in curves.items() if len(one[0])}
            if kept:
                is_loss = name.startswith("train/") and "learning_rate" not in name
                marker = "o" if name.startswith("val/") else None
                blocks.append(charts.lines(_title(name), "step", "", kept, smoothed=is_loss, marker=marker))
    return [Section("Training", blocks)] if blocks else []


def _curves_of(metrics: Mapping[str, NDArray[Any]]) -> list[Block]:
    losses = sorted(name for name in metrics if name.startswith("train/") and "loss" in name)
    groups: dict[tuple[str, str], list[str]] = {}
    total = [name for name in losses if name == "train/loss"]
    groups["training loss", "loss"] = total
    terms = [name for name in losses if name not in total]
    groups["its terms", "loss"] = terms if len(terms) > 1 or not total else []  # a single one is the loss itself
    groups["learning rate", ""] = [name for name in metrics if name == "train/learning_rate"]
    others = [name for name in metrics if name.startswith("train/") and name not in losses and "learning" not in name]
    groups["other values of the training", ""] = others
    scores = [name for name in metrics if name.startswith("val/")]
    for kind in dict.fromkeys(name[4:].rpartition("_")[0] for name in scores):
        of_kind = [name for name in scores if name[4:].rpartition("_")[0] == kind]
        title = "validation" + {"bbox": " of boxes", "segm": " of masks"}.get(kind, "")
        groups[f"{title}: precision", ""] = [name for name in of_kind if "_AP" in name]
        groups[f"{title}: recall", ""] = [name for name in of_kind if "_AR" in name]
        groups[title, ""] = [name for name in of_kind if "_AP" not in name and "_AR" not in name]
    blocks: list[Block] = []
    for (title, y), names in groups.items():
        prefix = next((f"{kind}_" for kind in ("bbox", "segm") if names and names[0].startswith(f"val/{kind}_")), "")
        curves = {name.partition("/")[2].removeprefix(prefix): _curve(metrics, name) for name in names}
        curves = {label: one for label, one in curves.items() if len(one[0])}
        if curves:
            smoothed = y == "loss" and max(len(one[0]) for one in curves.values()) >= 40  # fewer have no running mean
            marker = "o" if title.startswith("validation") else None
            note = "Pale as it was, drawn over it the running mean of a twentieth of the steps." if smoothed else ""
            blocks.append(charts.lines(title, "step", y, curves, smoothed=smoothed, marker=marker, note=note))
    return blocks


def _curve(metrics: Mapping[str, NDArray[Any]], name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Its points; without those of COCO's -1, which says that there is nothing to find."""
    steps, values = points(metrics["step"], metrics[name])
    known = values >= 0 if name.startswith("val/") else values == values
    return steps[known], values[known]


def _title(name: str) -> str:
    part, _, metric = name.partition("/")
    return f"{'training' if part == 'train' else 'validation'} {metric.replace('_', ' ')}"


def comparison_sections(runs: Sequence[RunRecord]) -> list[Section]:
    """Scores side by side, and the settings that differ."""
    names = list(dict.fromkeys(name for run in runs for name in run.scores))
    rows = [[run.name, *(number(run.scores.get(name)) for name in names)] for run in runs]
    blocks: list[Block] = [Table(["run", *names], rows, "scores, %")]
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    different = [
        [key, *(_setting(run.settings.get(key, "–")) for run in runs)]
        for key in keys
        if len({repr(run.settings.get(key)) for run in runs}) > 1
    ]
    if different:
        blocks.append(Table(["setting", *(run.name for run in runs)], different, "settings that differ"))
    return [Section("Comparison", blocks, "" if different else "The configs of the runs do not differ.")]


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def record_sections(runs: Sequence[RunRecord]) -> list[Section]:
    """Speed and memory, versions, the command, and the config."""
    blocks: list[Block] = []
    for title, parts in (
        ("speed and memory", [run.speed for run in runs]),
        ("versions", [run.facts.get("versions", {}) for run in runs]),
        ("run", [_history(run.facts) for run in runs]),
    ):
        keys = list(dict.fromkeys(key for one in parts for key in one))
        rows = [[key, *(str(one.get(key, "–")) for one in parts)] for key in keys]
        if rows:
            headings = ["", *(run.name for run in runs)] if len(runs) > 1 else ["", "value"]
            blocks.append(Table(headings, rows, title, wide=len(runs) > 1 or title == "run"))
    if len(runs) == 1:
        settings = [[key, _setting(value)] for key, value in runs[0].settings.items()]
        blocks.append(Table(["setting", "value"], settings, "config"))
    return [Section("Record", blocks)]


def _history(facts: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    if "seed" in facts:
        found["seed"] = str(facts["seed"])
    for what, command in (("command", facts.get("command")), *(("resumed", one) for one in facts.get("resumed", ()))):
        words = command.get("command", ()) if isinstance(command, Mapping) else command
        if isinstance(words, list):
            found[what] = " ".join(map(str, words))
    return found
