"""Writes imported images with their annotations: COCO files, or label maps in ADE20K's layout."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from swin_dense.errors import DataError, OutputError, option
from swin_dense.importing.records import ImportedImage
from swin_dense.label_maps.classes import CLASS_LISTS
from swin_dense.label_maps.files import label_image

ADE_FOLDERS = {"train": "training", "val": "validation", "test": "testing"}
WAYS = ("copy", "hardlink", "symlink")
"""How the images come into the new data set."""


def write_coco(
    images: Sequence[ImportedImage], splits: Sequence[str], classes: Sequence[str], output: Path, way: str
) -> dict[str, Counter[str]]:
    """Writes `annotations/instances_SPLIT.json` and `images/SPLIT`; the counts of instances by split and class.

    Category ids are 1, 2, ... in the order of the classes; ids of images and annotations are unique over all splits.
    """
    numbers = {name: number for number, name in enumerate(classes, 1)}
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in numbers.items()]
    counts: dict[str, Counter[str]] = {}
    annotation_id = 0
    names = unique_names(images, splits)
    (output / "annotations").mkdir(parents=True)
    for split in sorted(set(splits), key=list(ADE_FOLDERS).index):
        rows, annotations = [], []
        counts[split] = Counter()
        for place, image in enumerate(images):
            if splits[place] != split:
                continue
            image_id, (height, width) = place + 1, image.size
            place_image(image.path, output / "images" / split / names[place], way)
            rows.append({"id": image_id, "file_name": names[place], "height": height, "width": width})
            for one in image.objects:
                annotation_id += 1
                counts[split][one.class_name] += 1
                annotations.append(
                    {
                        "id": annotation_id,
                        "image_id": image_id,
                        "category_id": numbers[one.class_name],
                        "bbox": list(one.box),
                        "area": one.area,
                        "iscrowd": int(one.crowd),
                        **({"segmentation": one.outline} if one.outline else {}),
                        **one.extra,
                    }
                )
        content = {"images": rows, "annotations": annotations, "categories": categories}
        (output / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return counts


def write_label_maps(
    images: Sequence[ImportedImage],
    splits: Sequence[str],
    classes: Sequence[str],
    output: Path,
    way: str,
    void: Iterable[int],
) -> dict[str, Counter[str]]:
    """Writes images and label maps as ADE20K has them: a class is stored as its number from 1, 0 is no class."""
    counts: dict[str, Counter[str]] = {}
    names = unique_names(images, splits)
    for place, image in enumerate(images):
        folder = ADE_FOLDERS[splits[place]]
        labels = _stored_labels(image, classes, void)
        target = (output / "annotations" / folder / names[place]).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        label_image(labels).save(target)
        place_image(image.path, output / "images" / folder / names[place], way)
        found = [classes[label - 1] for label in np.unique(labels).tolist() if label]
        counts.setdefault(splits[place], Counter()).update(found)
    (output / CLASS_LISTS[0]).write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    return counts


def _stored_labels(image: ImportedImage, classes: Sequence[str], void: Iterable[int]) -> npt.NDArray[np.integer]:
    """(H, W) classes from 1; those of a label PNG, or those of the outlines, later ones over earlier ones."""
    if image.label_map is not None:
        labels = image.label_map()
        known = ~np.isin(labels, list(void))
        if known.any() and labels[known].max() >= len(classes):
            raise DataError(
                f"{image.path}: its label map has the label {labels[known].max()}, but there are {len(classes)} "
                f"classes; name them all with {option('classes', 'FILE')}"
            )
        return np.where(known, labels.astype(np.int32) + 1, 0)
    stored = np.ones(image.size, dtype=np.int32)  # the background, the first class
    numbers = {name: number for number, name in enumerate(classes, 1)}
    for one in image.objects:
        if not one.outline:
            raise DataError(f"{image.path}: a box without outline makes no label map; import it as COCO files")
        rle = (
            one.outline
            if isinstance(one.outline, dict)
            else coco_mask.merge(coco_mask.frPyObjects(one.outline, *image.size))
        )
        stored[coco_mask.decode(rle) != 0] = 0 if one.crowd else numbers[one.class_name]
    return stored


def unique_names(images: Sequence[ImportedImage], splits: Sequence[str]) -> list[str]:
    """A file name for each image in its split; where two would differ in no more than case, a number is added.

    Stems differ, too: label maps are found by them.
    """
    taken: set[tuple[str, str]] = set()
    found = []
    for image, split in zip(images, splits, strict=True):
        stem, dot, suffix = image.name.rpartition(".")
        name, number = image.name, 1
        while (split, name.rpartition(".")[0].casefold()) in taken:
            number += 1
            name = f"{stem}_{number}{dot}{suffix}"
        taken.add((split, name.rpartition(".")[0].casefold()))
        found.append(name)
    return found


def place_image(source: Path, target: Path, way: str) -> None:
    """Copies or links one image."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if way == "copy":
            shutil.copyfile(source, target)
        elif way == "hardlink":
            os.link(source.resolve(), target)
        else:
            target.symlink_to(source.resolve())
    except OSError as error:
        way_out = f"; take {option('images', 'copy')}" if way != "copy" else ""
        raise OutputError(f"{target} cannot be written as {way} of {source}: {error.strerror}{way_out}") from error
