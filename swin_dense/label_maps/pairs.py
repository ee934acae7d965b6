"""Which label map belongs to which image."""

from __future__ import annotations

from collections import defaultdict

from swin_dense.images.finder import SUFFIXES
from swin_dense.images.store import ImageStore
from swin_dense.records import Finding

Pair = tuple[str, str]
"""File names of an image and of its label map, relative to where they lie."""


def match_pairs(images: ImageStore, labels: ImageStore) -> tuple[list[Pair], list[Finding]]:
    """Finds the label map of every image: the PNG of the same name, but for the suffix.

    Args:
        images: The images; files that are no pictures are passed over.
        labels: The label maps; files other than `.png` are passed over.

    Returns:
        The pairs, sorted, and what has no partner or more than one.
    """
    image_names, problems = _by_stem(images, SUFFIXES)
    label_names, more_problems = _by_stem(labels, (".png",))
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


def _by_stem(store: ImageStore, suffixes: tuple[str, ...]) -> tuple[dict[str, str], list[Finding]]:
    """Names of files by name without suffix."""
    groups = defaultdict(list)
    for name in store.names(suffixes):
        groups[name.rpartition(".")[0]].append(name)
    problems = [
        Finding("ambiguous-name", str(store.root / names[0]), f"{names[1]} has the same name", "remove one of them")
        for names in groups.values()
        if len(names) > 1
    ]
    return {stem: names[0] for stem, names in groups.items()}, problems
