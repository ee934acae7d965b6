"""Where ADE20K, and whatever is stored like it, has its files, and which label map belongs to which image."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from swin_dense.errors import DataError, Finding
from swin_dense.images.files import exists
from swin_dense.images.finder import SUFFIXES
from swin_dense.images.store import ImageStore
from swin_dense.label_maps.classes import CLASS_LISTS

FOLDER = "ADEChallengeData2016"
"""The folder that the official zip file holds, and its name."""

LABEL_SUFFIXES = (".png",)

Pair = tuple[str, str]
"""File names of an image and of its label map, relative to where they lie."""


@dataclass(frozen=True)
class ADE20KLayout:
    """Where the official layout has what; each may lie inside a zip file."""

    train_images: Path
    train_labels: Path
    val_images: Path
    val_labels: Path
    classes: Path


def official_layout(root: Path, classes: Path | None = None) -> ADE20KLayout:
    """Finds the official layout, of which a split may be absent.

    Args:
        root: The folder `ADEChallengeData2016`, a folder with that folder or its zip file in it, or the zip file.
        classes: Another class list; None takes the one of the layout.
    """
    root = Path(root)
    bases = (root, root / FOLDER, root / f"{FOLDER}.zip")
    base = next((base for base in bases if exists(base / "annotations")), None)
    if base is None:
        raise DataError(
            f"{root}: not the layout of {FOLDER}, which has images/{{training,validation}} and "
            f"annotations/{{training,validation}}; name its folder or its zip file"
        )
    images, labels = base / "images", base / "annotations"
    found = classes or find_class_list(labels)
    if found is None:
        raise DataError(
            f"{base / CLASS_LISTS[0]}: no such class list; put it there, or name a file with one class name per line"
        )
    return ADE20KLayout(
        train_images=images / "training",
        train_labels=labels / "training",
        val_images=images / "validation",
        val_labels=labels / "validation",
        classes=found,
    )


def find_class_list(labels: Path) -> Path | None:
    """The class list of the official layout, beside the folder `annotations` that the labels are or lie in, if any."""
    folder = Path(os.path.abspath(labels))  # links stay: their target may lie beside another list
    for candidate in (folder, folder.parent):
        if candidate.name == "annotations":
            return next(filter(exists, (candidate.parent / name for name in CLASS_LISTS)), None)
    return None


def match_pairs(images: ImageStore, labels: ImageStore) -> tuple[list[Pair], list[Finding]]:
    """The image and label map (a PNG of the same stem) of each pair, sorted, and what has no partner or more than one.

    Files that are no pictures are passed over.
    """
    image_names, problems = names_by_stem(images, SUFFIXES)
    label_names, more_problems = names_by_stem(labels, LABEL_SUFFIXES)
    problems += more_problems
    for stem in sorted(image_names.keys() - label_names.keys()):
        message, fix = f"has no label map {labels.root / stem}.png", "add it or remove the image"
        problems.append(Finding("missing-label-map", str(images.root / image_names[stem]), message, fix))
    for stem in sorted(label_names.keys() - image_names.keys()):
        message, fix = f"has no image {images.root / stem}.*", "add it or remove the label map"
        problems.append(Finding("missing-image", str(labels.root / label_names[stem]), message, fix))
    pairs = [(image_names[stem], label_names[stem]) for stem in sorted(image_names.keys() & label_names.keys())]
    if not pairs and not problems:
        message, fix = f"holds no image, nor {labels.root} a label map", "name the folders that do"
        problems.append(Finding("no-images", str(images.root), message, fix))
    return pairs, problems


def names_by_stem(store: ImageStore, suffixes: tuple[str, ...]) -> tuple[dict[str, str], list[Finding]]:
    """Names of the files with these suffixes by name without suffix, and which of them have the same."""
    groups = defaultdict(list)
    for name in store.names(suffixes):
        groups[name.rpartition(".")[0]].append(name)
    problems = [
        Finding("ambiguous-name", str(store.root / names[0]), f"{names[1]} has the same name", "remove one of them")
        for names in groups.values()
        if len(names) > 1
    ]
    return {stem: names[0] for stem, names in groups.items()}, problems
