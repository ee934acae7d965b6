"""Label files, and the one place where the labels that they store become classes.

Raw label r of a file is class r + `label_shift`. A raw label below the classes, or equal to `ignore_index`, becomes
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
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swin_dense.errors import ConfigError, DataError
from swin_dense.images.store import ImageError, ImageStore
from swin_dense.label_maps.files import LabelMap, classes_of, label_map_of
from swin_dense.records import IGNORE_INDEX


@dataclass(frozen=True)
class LabelFile:
    """What a label file stores.

    Attributes:
        labels: (H, W) int32 raw labels.
        has_palette: Whether they are the indices of a palette image. PASCAL VOC stores its labels so; but the indices
            of a picture that some program reduced to 256 colours mean nothing.
    """

    labels: LabelMap
    has_palette: bool


def read_label_file(store: ImageStore, file_name: str) -> LabelFile:
    """Reads one label PNG.

    Args:
        store: Where it lies.
        file_name: Relative to the store's root.

    Returns:
        Its raw labels.

    Raises:
        ImageError: The file is missing, outside the root, damaged, no PNG, or holds colours instead of labels.
    """
    path = store.root / file_name
    with store.open(file_name, ("PNG",)) as image:
        has_palette = image.mode == "P"
        try:
            labels = label_map_of(image, path)
        except DataError as error:
            fault, _, fix = str(error).removeprefix(f"{path}: ").partition("; ")
            raise ImageError(path, "label-format", fault, fix) from error
    return LabelFile(labels, has_palette)


def count_labels(labels: LabelMap) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Counts pixels by raw label; ten times as fast as `np.unique`, which would sort them.

    Args:
        labels: Raw labels of any shape, 0..65535.

    Returns:
        (n,) the labels that occur, ascending, and (n,) the pixels of each.
    """
    counts = np.bincount(labels.ravel())
    values = np.flatnonzero(counts)
    return values, counts[values]


@dataclass(frozen=True)
class LabelConversion:
    """From the raw labels of files to classes; see the table above.

    Attributes:
        class_count: Number of classes K.
        label_shift: Added to a raw label, <= 0.
        ignore_index: The raw label without a class, beside those that the shift makes negative.
    """

    class_count: int
    label_shift: int = -1
    ignore_index: int = 255

    def __post_init__(self) -> None:
        """Checks that every class has a raw label of its own."""
        if self.label_shift > 0:
            raise ConfigError(f"data: label_shift must be 0 or negative, got {self.label_shift}: no label is below 0")
        if 0 <= self.ignore_index < self.class_count or 0 <= self.ignore_index + self.label_shift < self.class_count:
            raise ConfigError(
                f"data: ignore_index {self.ignore_index} is a class, or the label that files store for one "
                f"({self.class_count} classes, label_shift {self.label_shift}); choose one beyond them, such as 65535"
            )

    @property
    def first_label(self) -> int:
        """The raw label of class 0."""
        return -self.label_shift

    def classes(self, labels: LabelMap, path: Path) -> LabelMap:
        """Converts raw labels to classes. It must happen once: a second time would move every class down again.

        Args:
            labels: Raw labels of any shape, 0..65535.
            path: Their file, for messages.

        Returns:
            Classes 0..K-1 and `IGNORE_INDEX`, of the same shape.

        Raises:
            DataError: A label is no class.
        """
        if outside := self.outside(*count_labels(labels)):
            fault, fix = self.describe(outside)
            raise DataError(f"{path}: {fault}; {fix}")
        classes = classes_of(labels, path, label_shift=self.label_shift, ignore_index=self.ignore_index)
        classes[classes == self.ignore_index] = IGNORE_INDEX
        return classes

    def is_ignored(self, labels: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Which raw labels have no class and may occur.

        Args:
            labels: Raw labels of any shape.
        """
        ignored: npt.NDArray[np.bool_] = (labels < self.first_label) | (labels == self.ignore_index)
        return ignored

    def outside(self, labels: npt.NDArray[np.integer], counts: npt.NDArray[np.integer]) -> dict[int, int]:
        """The raw labels that must not occur, and how many pixels have them.

        Args:
            labels: (n,) different raw labels.
            counts: (n,) pixels of each.

        Returns:
            Pixels by raw label.
        """
        bad = ~self.is_ignored(labels) & (labels >= self.first_label + self.class_count)
        return dict(zip(labels[bad].tolist(), counts[bad].tolist(), strict=True))

    def describe(self, outside: dict[int, int]) -> tuple[str, str]:
        """Puts labels that must not occur into words.

        Args:
            outside: Of `outside`, at least one.

        Returns:
            What is wrong, and what to do.
        """
        shown = [f"{label} ({pixels} pixels)" for label, pixels in list(outside.items())[:5]]
        more = [f"{len(outside) - len(shown)} more"] if len(outside) > len(shown) else []
        last = self.first_label + self.class_count - 1
        fault = f"labels {', '.join([*shown, *more])} are no class: files hold {self.first_label}..{last}"
        return fault, "correct the labels, the list of classes, label_shift or ignore_index"
