"""The splits of a data set: where they lie, what is left out of training, and that they fit together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from swin_dense.coco.instances import CocoInstances
from swin_dense.errors import DataError
from swin_dense.records import Finding


@dataclass(frozen=True)
class Selection:
    """What of a file is used.

    Attributes:
        images: (n,) int64 positions of the images that are used.
        instances: (m,) bool, which annotations are; the others are boxes without area.
        left_out: How many of what are not used, or not learnt from.
    """

    images: Tensor
    instances: Tensor
    left_out: dict[str, int]

    def describe(self) -> str:
        """Counts and reasons, such as "3 crowd regions, 2 images without anything to learn from"."""
        return ", ".join(f"{count} {what}" for what, count in self.left_out.items())


def select(annotations: CocoInstances, *, keep_empty: bool, min_side: int) -> Selection:
    """Chooses the images to use: those whose sides have at least `min_side` pixels, with something to learn from.

    With `keep_empty`, those with nothing, or crowd regions at most, are used too.
    """
    count = len(annotations.image_ids)
    has_area = (annotations.boxes[:, 2:] > 0).all(dim=1)
    is_small = (annotations.image_sizes < min_side).any(dim=1)
    useful = torch.bincount(annotations.images[has_area & ~annotations.crowd], minlength=count)
    is_empty = (useful == 0) & ~is_small & (not keep_empty)
    counts = {
        f"images with a side below {min_side} pixels": is_small,
        "images without anything to learn from": is_empty,
        "crowd regions": annotations.crowd,
        "boxes without area": ~has_area,
    }
    left_out = {what: int(marks.sum()) for what, marks in counts.items() if marks.any()}
    return Selection(torch.nonzero(~is_small & ~is_empty).flatten(), has_area, left_out)


def find_empty_selection(annotations: CocoInstances, selection: Selection) -> Iterator[Finding]:
    """That no image is left to train on."""
    if not len(selection.images) and len(annotations.image_ids):
        message = f"none of its {len(annotations.image_ids)} images is left to train on: {selection.describe()}"
        fix = "correct the annotations, or keep such images (data.keep_empty, data.min_side)"
        yield Finding("nothing-to-train-on", annotations.file, message, fix)


def compare_categories(train: CocoInstances, val: CocoInstances) -> Iterator[Finding]:
    """That labels of training and validation mean the same."""
    of_train, of_val = (set(zip(one.category_ids, one.class_names, strict=True)) for one in (train, val))
    for name, own, other in (("training", of_train, of_val), ("validation", of_val, of_train)):
        for category_id, class_name in sorted(own - other):
            message = f"category {category_id} {class_name!r} is only in {name}"
            fix = f"list the same categories with the same ids in {train.file} and {val.file}"
            yield Finding("different-categories", train.file, message, fix)


def images_beside(annotations: Path) -> Path | None:
    """The images of `annotations/instances_val2017.json`, where they lie as in official COCO, if anywhere.

    They are `val2017`, `images/val2017` or `val2017.zip` beside the annotation folder.
    """
    split, root = annotations.stem.removeprefix("instances_"), annotations.parent.parent
    places = (root / split, root / "images" / split, root / f"{split}.zip")
    return next((place for place in places if place.exists()), None)


def find_annotations(root: Path, split: str) -> Path:
    """The instances file of the split "train" or "val" below `root`, where it lies as in official COCO.

    It is `annotations/instances_train.json`, or the latest year's, such as `annotations/instances_train2017.json`.
    """
    found = sorted((root / "annotations").glob(f"instances_{split}*.json"))
    if not found:
        name = f"annotations/instances_{split}*.json"
        raise DataError(
            f"{root}: no {name} in it; name the folder of a data set in COCO's layout, or the files themselves"
        )
    return found[-1]
