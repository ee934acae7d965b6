"""What a report shows of classes: scores, confusion, calibration, and the mistakes that were made with confidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from hotcoco import metrics
from numpy.typing import NDArray

from swin_dense.metrics.accuracy import Row, accuracy_scores
from swin_dense.report import charts
from swin_dense.report.confusion import BINS, confused_pairs, confusion_chart
from swin_dense.report.page import Block, Chart, Gallery, Section, Table, Tiles, number, percent, shown
from swin_dense.visualize.classification import draw_classification

SHOWN = 12
"""Mistakes, and right answers that were the least sure."""


@dataclass(frozen=True)
class ClassificationEvidence:
    """What a classifier said, beside what is true.

    Attributes:
        rows: Of the images; their probabilities are () where they are unknown.
        class_names: By label.
        read: Reads an image (3, H, W), or frames (T, 3, H, W), by the position of its row; None where there are none.
        items: What they are called.
    """

    rows: Sequence[Row]
    class_names: Sequence[str]
    read: Callable[[int], Any] | None
    items: str = "images"

    @cached_property
    def scores(self) -> dict[str, Any]:
        """Of `accuracy_scores`."""
        return accuracy_scores(self.rows, self.class_names)

    @cached_property
    def confidence(self) -> NDArray[np.float64] | None:
        """Of the surest class of each image; None where it is unknown."""
        known = all(row.probabilities for row in self.rows)
        return np.array([row.probabilities[0] for row in self.rows]) if known else None

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Whether the surest class of each image is the true one."""
        return np.array([row.label == row.best[0] for row in self.rows])


def calibration(confidence: NDArray[Any], right: NDArray[np.bool_]) -> tuple[float, float, list[dict[str, float]]]:
    """The expected and the largest calibration error, 0..1, and the bins of confidence."""
    expected, largest = metrics.calibration_error(confidence, right, BINS)
    return expected, largest, metrics.calibration_curve(confidence, right, BINS)


def classification_headline(evidence: ClassificationEvidence) -> dict[str, float]:
    """The scores that a comparison of runs shows, in percent."""
    return {"top1": 100 * evidence.scores["top1"], "top5": 100 * evidence.scores["top5"]}


def classification_sections(evidence: ClassificationEvidence) -> list[Section]:
    """All that is shown of the classes."""
    scores, names = evidence.scores, list(evidence.class_names)
    matrix = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(matrix, ([row.label for row in evidence.rows], [row.best[0] for row in evidence.rows]), 1)
    tiles = [
        ("top-1 accuracy", percent(scores["top1"]).text, "%: the surest class is the true one"),
        ("top-5 accuracy", percent(scores["top5"]).text, "%: the true one is among the five surest"),
    ]
    errors: list[Block] = []
    if evidence.confidence is not None:
        expected, largest, bins = calibration(evidence.confidence, evidence.right)
        tiles.append(("calibration error", percent(expected).text, "of confidence, %; expected (ECE)"))
        note = f"Expected calibration error (ECE) {100 * expected:.1f} %, largest error of a bin {100 * largest:.1f} %."
        errors.append(charts.reliability(bins, note))
        errors.append(_accuracy_by_confidence(evidence.confidence, evidence.right))
    errors += [confusion_chart(matrix, names, evidence.items), confused_pairs(matrix, names, evidence.items)]
    of_prediction = matrix.sum(axis=0)
    rows = []
    for label, name in enumerate(names):
        one = scores["per_class"][name]
        precision = matrix[label, label] / of_prediction[label] if of_prediction[label] else None
        wrong = ", ".join(f"{other} {count}" for other, count in list(one["taken_for"].items())[:3])
        rows.append([name, number(one["images"], 0), percent(one["accuracy"]), percent(precision), wrong or "–"])
    headings = ["class", evidence.items, "accuracy, %", "precision, %", "taken for"]
    sections = [
        Section("Scores", [Tiles(tiles)], f"{len(evidence.rows):,} {evidence.items} of {len(names):,} classes."),
        Section("Classes", [Table(headings, rows)]),
        Section("Errors", errors),
    ]
    return [*sections, *_images(evidence)]


def _accuracy_by_confidence(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> Chart:
    order = np.argsort(-confidence, kind="stable")
    kept = np.arange(1, len(order) + 1)
    curves = {"accuracy of what is kept": (confidence[order], np.cumsum(right[order]) / kept)}
    curves["share that is kept"] = (confidence[order], kept / len(order))
    note = "What is gained by leaving out what the model is not sure of."
    return charts.lines("accuracy by threshold", "least confidence", "", curves, ylim=(0, 1.02), note=note)


def _images(evidence: ClassificationEvidence) -> list[Section]:
    """The mistakes of the highest confidence, and right answers of the lowest; without confidence the first ones."""
    if evidence.read is None:
        return []
    sureness = np.zeros(len(evidence.rows)) if evidence.confidence is None else evidence.confidence
    order = np.argsort(-sureness, kind="stable")
    wrong = [int(one) for one in order if not evidence.right[one]][:SHOWN]
    unsure = [int(one) for one in order[::-1] if evidence.right[one]][:SHOWN]
    galleries = []
    for title, group in (("most confident mistakes", wrong), ("right, but the least sure", unsure)):
        pictures = []
        for place in group:
            row, image = evidence.rows[place], evidence.read(place)
            names = [evidence.class_names[label] for label in row.best]
            best = list(zip(names, row.probabilities or [0.0] * len(names), strict=True))
            caption = f"{row.file_name}: {evidence.class_names[row.label]}, taken for {names[0]}"
            if title != "most confident mistakes":
                caption = f"{row.file_name}: {names[0]}"
            pictures.append(shown(draw_classification(image, best, evidence.class_names[row.label]), caption))
        if pictures:
            galleries.append(Gallery(pictures, title, small=True))
    return [Section("Images", galleries)] if galleries else []
