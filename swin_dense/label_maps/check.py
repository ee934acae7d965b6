"""Checks a whole semantic segmentation data set, and reports all that is wrong with it at once.

What the labels that occur in a split say about it is the same for `check-data` and for training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swin_dense.errors import ConfigError, DataError, DataReport, Finding
from swin_dense.images.store import ImageError, ImageStore
from swin_dense.label_maps.classes import read_classes
from swin_dense.label_maps.conversion import LabelConversion
from swin_dense.label_maps.files import count_labels, read_label_file
from swin_dense.label_maps.layout import Pair, match_pairs, official_layout
from swin_dense.records import Progress, in_threads

Split = tuple[Path, Path]
"""Where images and label maps of a split lie."""

ADE20K = (150, "wall", "flag")
"""How many classes ADE20K has, the first and the last; its own label maps never hold 255."""

MOST_IGNORED = 0.5
"""A larger part of the pixels without a class is worth a warning; ADE20K has 8 %."""

EXPLAINS_BY_INDEX, EXPLAINS_BY_SHIFT = 0.01, 0.2
"""Least part of the pixels that an ignored label needs to explain a class without any; "other" has 8 % in ADE20K."""


@dataclass(frozen=True)
class LabelCount:
    """How often a stored label occurs, in pixels and in label maps ("images").

    Attributes:
        label: As the files store it.
        class_name: None where it is no class.
        ignored: Whether it says that a pixel has no class; False for a label that must not occur.
    """

    label: int
    class_name: str | None
    ignored: bool
    pixels: int
    images: int


@dataclass(frozen=True)
class SplitReport:
    """What is in one split: its folders or zip files, the images that have a label map, and the labels that occur.

    Attributes:
        histogram: Every class and every other label that occurs, by stored label.
    """

    images: str
    labels: str
    pairs: int
    histogram: tuple[LabelCount, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything by name, ready for JSON."""
        return {
            "images": self.images,
            "labels": self.labels,
            "pairs": self.pairs,
            "pixels": sum(row.pixels for row in self.histogram),
            "ignored_pixels": sum(row.pixels for row in self.histogram if row.ignored),
            "histogram": [vars(row) for row in self.histogram],
        }


@dataclass(frozen=True)
class SegmentationReport(DataReport):
    """What is in a data set, and what is wrong with it; `classes` is None where no class list was found."""

    classes: str | None
    class_names: tuple[str, ...]
    splits: dict[str, SplitReport]

    def to_dict(self) -> dict[str, Any]:
        """Everything by name, ready for JSON, with the findings counted by severity and by kind."""
        return {
            "classes": self.classes,
            "counts": {"classes": len(self.class_names), **self.severities()},
            "splits": {name: split.to_dict() for name, split in self.splits.items()},
            **self.findings(),
        }


def check_ade(
    root: Path,
    *,
    classes: Path | None = None,
    label_shift: int = -1,
    ignore_index: int = 255,
    progress: Progress | None = None,
) -> SegmentationReport:
    """Checks both splits of the official layout; see `official_layout` and `check_segmentation`."""
    try:
        layout = official_layout(root, classes)
    except DataError as error:
        return SegmentationReport(None, (), {}, problems=(Finding.of_error("layout", root, error),))
    return check_segmentation(
        {"training": (layout.train_images, layout.train_labels), "validation": (layout.val_images, layout.val_labels)},
        layout.classes,
        label_shift=label_shift,
        ignore_index=ignore_index,
        progress=progress,
    )


def check_segmentation(
    splits: Mapping[str, Split],
    classes: Path,
    *,
    label_shift: int = -1,
    ignore_index: int = 255,
    progress: Progress | None = None,
) -> SegmentationReport:
    """Checks images and label maps, all of which are decoded, once: only so are truncated files found.

    Nothing that is wrong with the data raises; see `LabelConversion` for `label_shift` and `ignore_index`.
    """
    try:
        class_names, _ = read_classes(classes)
    except DataError as error:
        return SegmentationReport(str(classes), (), {}, problems=(Finding.of_error("class-list", classes, error),))
    try:
        conversion = LabelConversion(len(class_names), label_shift, ignore_index)
    except ConfigError as error:
        problem = Finding.of_error("label-conversion", classes, error)
        return SegmentationReport(str(classes), class_names, {}, problems=(problem,))
    reports: dict[str, SplitReport] = {}
    problems: list[Finding] = []
    for name, folders in splits.items():
        stores = []
        for folder in folders:
            try:
                stores.append(ImageStore(folder))
            except DataError as error:
                problems.append(Finding.of_error("folder", folder, error))
        if len(stores) == 2:
            reports[name], found = _check_split(stores[0], stores[1], class_names, conversion, progress)
            problems += found
    seen = {row.label for report in reports.values() for row in report.histogram if row.pixels}
    label_folders = ", ".join(report.labels for report in reports.values())
    problems += conversion_findings(seen, class_names, conversion, label_folders)
    return SegmentationReport(str(classes), class_names, reports, problems=tuple(problems))


@dataclass(frozen=True)
class _CheckedPair:
    """What was found in one image and its label map: pixels by stored label, and what is wrong."""

    pixels: dict[int, int]
    has_palette: bool
    problems: tuple[Finding, ...]


def _check_split(
    images: ImageStore,
    labels: ImageStore,
    class_names: tuple[str, ...],
    conversion: LabelConversion,
    progress: Progress | None,
) -> tuple[SplitReport, list[Finding]]:
    """Reads all pairs of a split, several at a time."""
    pairs, problems = match_pairs(images, labels)
    pixels: Counter[int] = Counter()
    image_counts: Counter[int] = Counter()
    palettes = 0
    for _, one in in_threads(lambda pair: _check_pair(images, labels, pair, conversion), pairs, progress):
        pixels.update(one.pixels)
        image_counts.update(one.pixels.keys())
        palettes += one.has_palette
        problems += one.problems
    if palettes:
        message = f"{palettes} of {len(pairs)} label files have a palette, whose indices are read as the labels"
        fix = "make sure that they are, as in PASCAL VOC, and not those of a coloured picture"
        problems.append(Finding("palette", str(labels.root), message, fix, severity="warning"))
    problems += coverage_findings(pixels, conversion, class_names, labels.root, f"{len(pairs)} label maps")
    names = dict(enumerate(class_names, start=conversion.first_label))
    present = np.array(sorted(names.keys() | pixels.keys()))
    histogram = tuple(
        LabelCount(label, names.get(label), ignored, pixels[label], image_counts[label])
        for label, ignored in zip(present.tolist(), conversion.is_ignored(present).tolist(), strict=True)
    )
    return SplitReport(str(images.root), str(labels.root), len(pairs), histogram), problems


def _check_pair(images: ImageStore, labels: ImageStore, pair: Pair, conversion: LabelConversion) -> _CheckedPair:
    image_name, label_name = pair
    path = str(labels.root / label_name)
    pixels: dict[int, int] = {}
    problems = []
    has_palette, size = False, None
    try:
        file = read_label_file(labels, label_name)
    except ImageError as error:
        problems.append(Finding(error.kind, path, error.fault, error.fix))
    else:
        has_palette, size = file.has_palette, (file.labels.shape[0], file.labels.shape[1])
        values, counts = count_labels(file.labels)
        pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
        if outside := conversion.outside(values, counts):
            problems.append(Finding("label-range", path, *conversion.describe(outside)))
        elif conversion.is_ignored(values).all():
            message, fix = "no pixel has a class", "remove it with its image, since nothing can be learnt from it"
            problems.append(Finding("empty-label-map", path, message, fix, severity="warning"))
    try:
        images.read(image_name, size)
    except ImageError as error:
        problems.append(Finding(error.kind, str(images.root / image_name), error.fault, error.fix))
    return _CheckedPair(pixels, has_palette, tuple(problems))


def coverage_findings(
    pixels: Mapping[int, int], conversion: LabelConversion, class_names: Sequence[str], labels: Path, where: str
) -> Iterator[Finding]:
    """Classes without a pixel, and pixels without a class, with the number in the files that explains it.

    Args:
        pixels: Pixels by stored label, of one split or of a part of it.
        conversion: From stored labels to classes.
        class_names: Names by class.
        labels: Where the label maps lie.
        where: What was counted, such as "8 label maps".
    """
    total = sum(pixels.values())
    if not total:
        return
    stored = np.array(sorted(pixels))
    ignored = {label: pixels[label] / total for label in stored[conversion.is_ignored(stored)].tolist()}
    share, most = sum(ignored.values()), max(ignored, key=ignored.__getitem__, default=-1)
    reason = "it is ignore_index" if most == conversion.ignore_index else f"label_shift is {conversion.label_shift}"
    explanation = f"label {most} is ignored on {ignored.get(most, 0):.1%} of the pixels, because {reason}"
    classes = range(conversion.first_label, conversion.last_label + 1)
    names = [class_names[label - conversion.first_label] for label in classes if not pixels.get(label)]
    restore = (
        f"if label {most} stands for a class, store the number of that class instead ({classes[0]}..{classes[-1]})"
    )
    if len(names) == len(classes):
        message = f"no pixel of {where} has a class" + (f": {explanation}" if ignored else "")
        yield Finding("no-classes", str(labels), message, f"{restore}, or correct label_shift and ignore_index")
        return
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        message = f"{len(names)} of {len(classes)} classes have no pixel in {where}: {shown}"
        fix = "check that the class list belongs to the label maps"
        if ignored.get(most, 0) >= (EXPLAINS_BY_INDEX if most == conversion.ignore_index else EXPLAINS_BY_SHIFT):
            message, fix = f"{message}; {explanation}", f"{restore}; else {fix}"
        yield Finding("unseen-classes", str(labels), message, fix, severity="warning")
    if share > MOST_IGNORED:
        message = f"{share:.1%} of the pixels of {where} have no class: {explanation}"
        fix = f"{restore}, or correct label_shift and ignore_index; else nothing is learnt there"
        yield Finding("mostly-ignored", str(labels), message, fix, severity="warning")


def conversion_findings(
    seen: Iterable[int], class_names: Sequence[str], conversion: LabelConversion, files: str
) -> Iterator[Finding]:
    """Whether the labels `seen` in all splits look converted already: a shift would move every class a second time.

    A converted ADE20K map has 0..149, and 255 where there was 0. Two signs together give it away: pixels of 255, and
    in no split a pixel of the last class, 150. Label maps of other classes may have a background, a void of 255 and a
    last class that is rare; they get a warning.
    """
    labels = np.array(sorted(seen))
    if conversion.first_label == 0 or not len(labels):
        return
    last, ignore_index = conversion.last_label, conversion.ignore_index
    if ignore_index in labels and last not in labels:
        is_ade20k = (len(class_names), class_names[0], class_names[-1]) == ADE20K
        look = "" if is_ade20k else f", unless the last class, {class_names[-1]}, is just rare"
        message = (
            f"label {ignore_index} occurs and the last label {last} does not: the labels look converted already, and "
            f"label_shift={conversion.label_shift} would move every class once more{look}"
        )
        fix = "use label_shift=0 for files that hold 0..K-1, or restore the original label maps"
        if not is_ade20k:
            fix = f"look where label {conversion.first_label} lies: if that is no {class_names[0]}, {fix}"
        yield Finding("converted-twice", files, message, fix, severity="error" if is_ade20k else "warning")
    elif not conversion.is_ignored(labels).any():
        message = f"no pixel is without a class: neither label 0 nor {ignore_index} occurs"
        fix = "expected only of label maps that name every pixel; else check label_shift"
        yield Finding("nothing-ignored", files, message, fix, severity="warning")
