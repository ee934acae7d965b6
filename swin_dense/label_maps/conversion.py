"""The one place where the labels that files store become classes.

Stored label r is class r + `label_shift`. A label below the classes, or equal to `ignore_index`, becomes
`IGNORE_INDEX`; any other that is no class is an error:

| files hold | `label_shift` | `ignore_index` |
|---|---|---|
| 0 = other, 1..K = classes (ADE20K) | -1 | 255 (never occurs) |
| 0..K-1 = classes, 255 = void | 0 | 255 |
| 0 = background that does not count, 1..K = classes, 255 = void | -1 | 255 |
| 0..K-1 = more than 255 classes in 16 bits, 65535 = void | 0 | 65535 |
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swin_dense.errors import ConfigError, DataError
from swin_dense.label_maps.files import MAX_LABEL, LabelMap, count_labels, in_chunks
from swin_dense.records import IGNORE_INDEX

NO_CLASS = -2
"""In `LabelConversion.table`: the label must not occur."""


@dataclass(frozen=True)
class LabelConversion:
    """From the stored labels of files to classes; see the table above. A negative `ignore_index` is no label."""

    class_count: int
    label_shift: int = -1
    ignore_index: int = 255

    def __post_init__(self) -> None:
        """Checks that every class has a stored label of its own, which a PNG can hold."""
        if self.label_shift > 0:
            raise ConfigError(f"label_shift must be 0 or negative, got {self.label_shift}: no label is below 0")
        if self.last_label > MAX_LABEL:
            raise ConfigError(
                f"{self.class_count} classes with label_shift {self.label_shift} are the labels {self.first_label}.."
                f"{self.last_label}, but a label PNG holds 0..{MAX_LABEL}; correct the shift or the list of classes"
            )
        if self.ignore_index > MAX_LABEL:
            raise ConfigError(f"ignore_index must be at most {MAX_LABEL}, as labels are, got {self.ignore_index}")
        if 0 <= self.ignore_index < self.class_count or 0 <= self.ignore_index + self.label_shift < self.class_count:
            raise ConfigError(
                f"ignore_index {self.ignore_index} is a class, or the label that files store for one "
                f"({self.class_count} classes, label_shift {self.label_shift}); choose one beyond them, such as 65535"
            )

    @property
    def first_label(self) -> int:
        """The stored label of class 0."""
        return -self.label_shift

    @property
    def last_label(self) -> int:
        """The stored label of class K - 1."""
        return self.first_label + self.class_count - 1

    @cached_property
    def table(self) -> NDArray[np.int32]:
        """(65536,) what every stored label becomes: a class 0..K-1, `IGNORE_INDEX` or `NO_CLASS`."""
        table: NDArray[np.int32] = np.arange(MAX_LABEL + 1, dtype=np.int32) - np.int32(self.first_label)
        table[: self.first_label] = IGNORE_INDEX
        table[self.last_label + 1 :] = NO_CLASS
        if self.ignore_index >= 0:
            table[self.ignore_index] = IGNORE_INDEX
        return table

    def classes(self, labels: LabelMap, path: Path) -> NDArray[np.int32]:
        """Converts stored labels to classes 0..K-1 and `IGNORE_INDEX`, once: a second time would shift them again.

        A label that is no class raises a DataError about the file at `path`.
        """
        classes = np.empty(labels.shape, np.int32)
        for chunk, target in zip(in_chunks(labels), in_chunks(classes), strict=True):
            np.take(self.table, chunk, out=target)
        if classes.min(initial=0) == NO_CLASS:
            fault, fix = self.describe(self.outside(*count_labels(labels)))
            raise DataError(f"{path}: {fault}; {fix}")
        return classes

    def is_ignored(self, labels: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which stored labels have no class and may occur."""
        ignored: NDArray[np.bool_] = self.table[labels] == IGNORE_INDEX
        return ignored

    def outside(self, labels: NDArray[np.integer], counts: NDArray[np.integer]) -> dict[int, int]:
        """The pixels of stored labels that must not occur, by label; takes what `count_labels` gives."""
        bad = self.table[labels] == NO_CLASS
        return dict(zip(labels[bad].tolist(), counts[bad].tolist(), strict=True))

    def describe(self, outside: dict[int, int]) -> tuple[str, str]:
        """What is wrong with labels that must not occur, and what to do."""
        shown = [f"{label} ({pixels} pixels)" for label, pixels in list(outside.items())[:5]]
        more = [f"{len(outside) - len(shown)} more"] if len(outside) > len(shown) else []
        fault = f"labels {', '.join([*shown, *more])} are no class: files hold {self.first_label}..{self.last_label}"
        return fault, "correct the labels, the list of classes, label_shift or ignore_index"
