"""Checks a whole classification data set and reports all that is wrong with it at once."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from swin_dense.errors import DataError, DataReport, Finding, nearest
from swin_dense.images.finder import image_names
from swin_dense.images.labelled import (
    alike,
    class_folders,
    label_rows,
    official_split,
    open_images,
    read_class_list,
)
from swin_dense.images.store import ImageError, ImageStore
from swin_dense.records import Progress, in_threads

Place = tuple[Path, Path | None]
"""Where the images of a split lie, and the list of their labels, if there is one."""


@dataclass(frozen=True)
class LabelledReport(DataReport):
    """What is in one split, and what is wrong with it.

    Attributes:
        place: Where its images lie.
        counts: Numbers of images, of classes, and of what was found, by name.
        per_class: Number of images by class, as it is called there.
    """

    place: str
    counts: dict[str, int]
    per_class: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Everything by name, ready for JSON, with the findings counted by kind."""
        return {
            "annotations": self.place,
            "counts": self.counts,
            "left_out_of_training": {},
            **self.findings(),
        }


class Split(NamedTuple):
    """The images of a split with the class of each, as it is called there."""

    root: Path
    store: ImageStore | None  # None where it cannot be opened
    words: dict[str, str]
    classes: frozenset[str]  # empty ones too
    problems: list[Finding]


def check_imagenet(
    root: Path, *, classes: Path | None = None, progress: Progress | None = None
) -> dict[str, LabelledReport]:
    """Checks the splits `train` and `val` of a folder, or `train.zip` and `val.zip`; see `check_labelled`."""
    places: dict[str, Place] = {split: (official_split(root, split), None) for split in ("train", "val")}
    return check_labelled(places, classes, progress=progress)


def check_labelled(
    places: Mapping[str, Place], classes: Path | None = None, *, progress: Progress | None = None
) -> dict[str, LabelledReport]:
    """Checks the images of splits, all of which are decoded, and their classes; the first split is learnt from.

    Nothing that is wrong with the data raises. Without a class list the classes are those of the first split.
    """
    splits = {name: _open(*place) for name, place in places.items()}
    known: frozenset[str] | None = None
    listed: list[Finding] = []
    if classes is not None:
        try:
            found = read_class_list(classes)
            known = frozenset((*found.folders, *found.names, *map(str, range(len(found.names)))))
        except DataError as error:
            listed.append(Finding.of_error("class-list", classes, error))
    learnt = next(iter(splits.values()))
    seen: dict[str, list[tuple[str, str]]] = defaultdict(list)  # content to split and image
    reports = {}
    for number, (name, split) in enumerate(splits.items()):
        wanted = learnt.classes if known is None else known
        problems = [*(listed if number == 0 else ()), *split.problems]
        problems += check_classes(split, wanted, learnt is split, known is not None)
        problems += _check_images(name, split, seen, progress)
        reports[name] = (split, problems)
    for name, finding in duplicates(splits, seen):
        reports[name][1].append(finding)
    return {name: report_of(places[name][0], split, problems) for name, (split, problems) in reports.items()}


def _open(images: Path, labels: Path | None) -> Split:
    try:
        store = open_images(images)
        rows = store.label_rows() if labels is None else None
        if rows is not None:
            words = dict(rows)
            return Split(store.root, store, words, frozenset((*store.class_names, *words.values())), [])
        if labels is None:
            names = image_names(store)
            words = {name: name.partition("/")[0] for name in names if "/" in name}
            fix = "move it into the folder of its class"
            problems = [
                Finding("no-class", str(images / name), "lies in no folder of a class", fix)
                for name in names
                if "/" not in name
            ]
            return Split(images, store, words, frozenset(class_folders(store)), problems)
        rows = label_rows(labels)
        fix = f"write it behind the name in {labels.name}"
        problems = [Finding("no-class", name[:80], "has no class in its list", fix) for name, word in rows if not word]
        words = {name: word for name, word in rows if word}
        missing = set(store.missing(words))
        fix = f"restore it, or take it out of {labels.name}"
        problems += [Finding("missing-image", str(images / name), "no such image", fix) for name in sorted(missing)]
        words = {name: word for name, word in words.items() if name not in missing}
        return Split(images, store, words, frozenset(words.values()), problems)
    except DataError as error:
        return Split(images, None, {}, frozenset(), [Finding.of_error("folder", images, error)])


def check_classes(split: Split, wanted: frozenset[str], is_learnt: bool, is_listed: bool) -> Iterable[Finding]:
    """Classes that a split has and should not have, or the other way round."""
    if not split.classes:
        return
    root = split.root
    counts = Counter(split.words.values())
    for word in sorted(split.classes - wanted):
        fix = f"rename or remove it; {nearest(word, wanted)}"
        yield Finding("unknown-class", str(root / word), "is no class of the training images or the class list", fix)
    for first, second in alike(sorted(split.classes)):
        message = f"differs from the class {first!r} in spaces alone"
        yield Finding("alike-classes", str(root / second), message, "make them one class, or rename it")
    if not is_listed:
        for word in sorted(wanted - split.classes):
            yield Finding(
                "missing-class", str(root / word), "a class without a folder here", "add it", severity="warning"
            )
    for word in sorted(split.classes & wanted):
        if not counts[word]:
            severity: Any = "error" if is_learnt else "warning"
            fix = "add images, or remove the folder"
            yield Finding("empty-class", str(root / word), "a class without images", fix, severity=severity)


def _check_images(
    name: str, split: Split, seen: dict[str, list[tuple[str, str]]], progress: Progress | None
) -> list[Finding]:
    """Decodes all images, several at a time, and notes what is in each."""
    problems: list[Finding] = []
    store, names = split.store, list(split.words)
    if store is None:
        return problems
    for image, (digest, finding) in in_threads(partial(_check_image, store), names, progress):
        problems += [finding] if finding else []
        if digest:
            seen[digest].append((name, image))
    return problems


def _check_image(store: ImageStore, name: str) -> tuple[str, Finding | None]:
    """What a file contains, in short, or nothing where it cannot be read; and what is wrong with it."""
    path = str(store.root / name)
    try:
        with store.open(name) as image:
            mode = image.mode
        store.read(name)
        digest = hashlib.sha256(store.content(name)).hexdigest()
    except ImageError as error:
        return "", Finding(error.kind, path, error.fault, error.fix)
    if mode != "CMYK":
        return digest, None
    message, fix = "stored in the colours of printing (CMYK), which are turned to RGB roughly", "save it as RGB"
    return digest, Finding("cmyk", path, message, fix, severity="warning")


def duplicates(
    splits: Mapping[str, Split], seen: Mapping[str, Sequence[tuple[str, str]]]
) -> Iterable[tuple[str, Finding]]:
    """Files with the same content, with the split that each is reported in."""
    for places in seen.values():
        (first_split, first), *others = places
        for name, image in others:
            split, original = splits[name], splits[first_split]
            path, other = str(split.root / image), str(original.root / first)
            if split.words[image] != original.words[first]:
                message = f"the same file as {other}, but of another class"
                yield name, Finding("two-classes", path, message, "remove one of them")
            else:
                kind = "duplicate" if name == first_split else "train-in-val"
                yield name, Finding(kind, path, f"the same file as {other}", "remove one of them", severity="warning")


def report_of(place: Path, split: Split, problems: list[Finding], items: str = "images") -> LabelledReport:
    """The report on a split of these items."""
    counts = Counter(split.words.values())
    sizes = [counts[word] for word in split.classes] or [0]
    numbers = {
        items: len(split.words),
        "classes": len(split.classes),
        f"fewest_{items}_of_a_class": min(sizes),
        f"most_{items}_of_a_class": max(sizes),
    }
    return LabelledReport(
        str(place), numbers, {word: counts[word] for word in sorted(split.classes)}, problems=tuple(problems)
    )
