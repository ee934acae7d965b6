"""Checks a whole data set and reports all that is wrong with it at once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from swin_dense.coco.annotations import CocoAnnotations, read_annotations
from swin_dense.coco.rules import find_problems
from swin_dense.errors import DataError
from swin_dense.images.store import ImageError, ImageStore
from swin_dense.records import Finding, Progress

SMALL, MEDIUM = 32**2, 96**2
"""Areas in pixels at which COCO's small instances end, and its medium ones."""


@dataclass(frozen=True)
class CheckReport:
    """What is in a data set, and what is wrong with it. Counts are of well-formed records.

    Attributes:
        annotations: The annotation file.
        images: The image folder or zip file; None where there was none to check.
        image_count: Images in the annotation file.
        annotation_count: Annotations, crowd regions included.
        instances_per_class: Annotations by class name, without crowd regions.
        crowd: Crowd regions.
        empty_images: Images without any annotation.
        small: Instances of less than 32 x 32 pixels, by stated area.
        medium: Instances between.
        large: Instances of 96 x 96 pixels and more.
        problems: All findings.
    """

    annotations: str
    images: str | None
    image_count: int = 0
    annotation_count: int = 0
    instances_per_class: dict[str, int] = field(default_factory=dict)
    crowd: int = 0
    empty_images: int = 0
    small: int = 0
    medium: int = 0
    large: int = 0
    problems: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether training can use the data: there may be warnings, but no errors."""
        return not any(problem.severity == "error" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Everything by name, ready for JSON, with the findings counted by severity and by kind."""
        severities = Counter(problem.severity for problem in self.problems)
        return {
            "annotations": self.annotations,
            "images": self.images,
            "ok": self.ok,
            "counts": {
                "images": self.image_count,
                "annotations": self.annotation_count,
                "categories": len(self.instances_per_class),
                "crowd": self.crowd,
                "empty_images": self.empty_images,
                "small": self.small,
                "medium": self.medium,
                "large": self.large,
                "errors": severities["error"],
                "warnings": severities["warning"],
            },
            "instances_per_class": self.instances_per_class,
            "problem_counts": dict(Counter(problem.kind for problem in self.problems)),
            "problems": [problem.to_dict() for problem in self.problems],
        }


def check_coco(annotations: Path, images: Path | None, *, progress: Progress | None = None) -> CheckReport:
    """Checks a COCO instances file and its images, all of which are decoded: only so are truncated files found.

    The rules on annotations are the same that stop training (see `rules`, which also states their tolerances).

    Args:
        annotations: Instances JSON, or one inside a zip file.
        images: Image folder or zip file; None looks for it where the official layout has it (see `find_images`).
        progress: Shows how many of the images are done.

    Returns:
        Counts and all problems; nothing that is wrong with the data raises.
    """
    annotations, images = Path(annotations), images or find_images(Path(annotations))
    shown = None if images is None else str(images)
    try:
        data, problems = read_annotations(annotations)
    except DataError as error:
        problem = Finding(
            "annotation-file", str(annotations), _without_path(error, annotations), "give a COCO instances JSON file"
        )
        return CheckReport(str(annotations), shown, problems=(problem,))
    masks = bool(data.has_outline.any())
    problems += find_problems(data, masks=masks)
    if len(data.ids) and not masks:
        message = "no masks: no annotation has a 'segmentation', so that it is fit for box detectors only"
        fix = "train a detector of boxes, or draw the outlines"
        problems.append(Finding("no-masks", str(annotations), message, fix, severity="warning"))
    if images is None:
        message = "no image folder was given, and none found beside the file: images are not checked"
        problems.append(Finding("images-not-checked", str(annotations), message, "name the folder", severity="warning"))
    else:
        problems += _image_problems(data, images, progress)
    instances = ~data.crowd.numpy()
    areas = data.areas.numpy()[instances]
    per_class = np.bincount(data.labels.numpy()[instances], minlength=len(data.class_names)).tolist()
    return CheckReport(
        annotations=str(annotations),
        images=shown,
        image_count=len(data.image_ids),
        annotation_count=len(data.ids),
        instances_per_class=dict(zip(data.class_names, per_class, strict=True)),
        crowd=int(data.crowd.sum()),
        empty_images=int((data.first_annotation.diff() == 0).sum()),
        small=int((areas < SMALL).sum()),
        medium=int(((areas >= SMALL) & (areas < MEDIUM)).sum()),
        large=int((areas >= MEDIUM).sum()),
        problems=tuple(problems),
    )


def find_images(annotations: Path) -> Path | None:
    """The images of `annotations/instances_val2017.json`, where they lie as in official COCO.

    Args:
        annotations: The instances file.

    Returns:
        `val2017`, `images/val2017` or `val2017.zip` beside the annotation folder; None where there is none of them.
    """
    split, root = annotations.stem.removeprefix("instances_"), annotations.parent.parent
    places = (root / split, root / "images" / split, root / f"{split}.zip")
    return next((place for place in places if place.exists()), None)


def _without_path(error: DataError, path: Path) -> str:
    """The message of an error, without the path that a `Finding` names itself."""
    return str(error).removeprefix(f"{path}: ")


def _image_problems(data: CocoAnnotations, images: Path, progress: Progress | None) -> Iterator[Finding]:
    """What is wrong with the images, several of which are read at a time."""
    try:
        store = ImageStore(images)
    except DataError as error:
        yield Finding("image-folder", str(images), _without_path(error, images), "give the image folder or zip file")
        return
    sizes, ids = data.image_sizes.tolist(), data.image_ids.tolist()

    def check(row: int) -> Finding | None:
        name, (height, width) = data.file_names.text(row), sizes[row]
        try:
            store.read(name, (height, width))
        except ImageError as error:
            return Finding(error.kind, str(store.root / name), f"{name}: {error.fault}", error.fix, ids[row])
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checked: Iterable[Finding | None] = pool.map(check, range(len(ids)))
        for problem in progress(checked, len(ids)) if progress else checked:
            # The annotation rules have named escaping file names already.
            if problem and problem.kind != "escaping-file-name":
                yield problem
