"""What reports of all tasks share: classes that are taken for each other, and how much of what is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from swin_dense.report import charts
from swin_dense.report.page import Chart, Table, number, percent

SHOWN_IMAGES = 6
"""Best and worst images."""

SHOWN_PAIRS = 15
"""Pairs of classes that are taken for each other, and doubtful annotations."""

BINS = 10
"""Of confidence."""

NOTHING = "nothing"
"""The last row and column of a confusion matrix of objects: what is not annotated, or not found."""


T = TypeVar("T")


def worst_and_best(ranked: Sequence[T]) -> tuple[tuple[str, Sequence[T]], ...]:
    """The images that are shown of those ranked, worst first, by what they are called; each once."""
    worst = ranked[:SHOWN_IMAGES]
    best = [one for one in ranked[::-1] if one not in worst][:SHOWN_IMAGES]
    return ("worst", worst), ("best", best)


def confusion_chart(matrix: NDArray[np.int64], names: Sequence[str], what: str = "objects", note: str = "") -> Chart:
    """How the classes with most errors are taken for each other."""
    kept = most_confused(matrix)
    sums = matrix.sum(axis=1)[kept][:, None]
    kept_names = [names[one] for one in kept]
    if len(kept) < len(names):
        note = f"{note} The {len(kept) - (names[-1] == NOTHING)} classes with most errors.".strip()
    shares = matrix[np.ix_(kept, kept)] / np.maximum(sums, 1)
    return charts.heat(f"confusion, % of the {what} of a class", shares, kept_names, kept_names, note=note)


def most_confused(matrix: NDArray[np.int64]) -> list[int]:
    """The classes of a confusion matrix that fit beside a chart, in their order: those with most errors."""
    wrong = matrix - np.diag(np.diag(matrix))
    errors = wrong.sum(axis=0) + wrong.sum(axis=1)
    last = len(matrix) - 1
    best = np.argsort(-errors, kind="stable")[: charts.MOST_CLASSES].tolist()
    return sorted({*best, last}) if len(matrix) > charts.MOST_CLASSES else list(range(len(matrix)))


def confused_pairs(matrix: NDArray[np.int64], names: Sequence[str], what: str = "objects") -> Table:
    """The pairs of classes that are most often taken for each other."""
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN_PAIRS]
    rows = []
    for true, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if count := int(wrong[true, predicted]):
            share = None if names[true] == NOTHING else count / matrix[true].sum()
            rows.append([names[true], names[predicted], number(count, 0), percent(share)])
    return Table(["true", "predicted", what, "% of the class"], rows, "most frequent confusions")
