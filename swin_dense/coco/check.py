"""Checks a whole data set and reports all that is wrong with it at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from swin_dense.coco.instances import CocoInstances, images_beside, read_instances, select
from swin_dense.coco.rules import apply_rules, compare_categories, find_empty_selection
from swin_dense.errors import DataError, DataReport, Finding, Severity
from swin_dense.images.store import ImageError, ImageStore
from swin_dense.records import Progress, in_threads

SMALL, MEDIUM = 32**2, 96**2
"""Areas in pixels at which COCO's small instances end, and its medium ones."""

COUNTED = ("images", "annotations", "categories", "crowd", "empty_images", "small", "medium", "large")
"""What is counted; crowd regions are annotations, but of no size."""


@dataclass(frozen=True)
class CheckReport(DataReport):
    """What is in a data set, and what is wrong with it. Counts are of well-formed records.

    Attributes:
        annotations: The annotation file.
        images: The image folder or zip file; None where there was none to check.
        counts: By the names in `COUNTED`.
        instances_per_class: Annotations by class name, without crowd regions.
        left_out: What training would not learn from, and how many.
    """

    annotations: str
    images: str | None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    instances_per_class: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything by name, ready for JSON, with the findings counted by severity and by kind."""
        return {
            "annotations": self.annotations,
            "images": self.images,
            "counts": {**self.counts, **self.severities()},
            "left_out_of_training": self.left_out,
            "instances_per_class": self.instances_per_class,
            **self.findings(),
        }


def check_coco(annotations: Path, images: Path | None, *, progress: Progress | None = None) -> CheckReport:
    """Checks a COCO instances file and its images, all of which are decoded: only so are truncated files found.

    The annotations may lie in a zip file. Without `images` they are looked for as in official COCO (`images_beside`).
    The rules on annotations are the same that stop training (see `rules`, which also states their tolerances). Nothing
    that is wrong with the data raises.
    """
    return _check(annotations, images, progress)[0]


def check_splits(
    train: tuple[Path, Path | None],
    val: tuple[Path, Path | None],
    *,
    masks: bool,
    keep_empty: bool,
    min_side: int,
    progress: Progress | None = None,
) -> dict[str, CheckReport]:
    """Checks both splits by all the rules that training applies to them: a report for "train" and one for "val".

    Each split is annotations and images as `check_coco` takes them; the options are as of `CocoDataModule`.
    """
    train_report, train_data = _check(*train, progress, masks=masks, keep_empty=keep_empty, min_side=min_side)
    val_report, val_data = _check(*val, progress, masks=masks, keep_empty=True, min_side=0, for_training=False)
    if train_data and val_data:
        different = tuple(compare_categories(train_data, val_data))
        train_report = replace(train_report, problems=(*different, *train_report.problems))
    return {"train": train_report, "val": val_report}


def _check(
    annotations: Path,
    images: Path | None,
    progress: Progress | None,
    *,
    masks: bool | None = None,
    keep_empty: bool = False,
    min_side: int = 32,
    for_training: bool = True,
) -> tuple[CheckReport, CocoInstances | None]:
    """A report, and what was read; `masks` asks for outlines, None only where any annotation has one."""
    annotations, images = Path(annotations), images or images_beside(Path(annotations))
    shown = None if images is None else str(images)
    try:
        data, findings = read_instances(annotations)
    except DataError as error:
        fault, fix = _without_path(error, annotations), "give a COCO instances JSON file"
        finding = Finding("annotation-file", str(annotations), fault, fix)
        return CheckReport(str(annotations), shown, problems=(finding,)), None
    has_outlines = bool(data.has_outline.any())
    findings += apply_rules(data, masks=has_outlines if masks is None else masks)
    if len(data.ids) and not has_outlines and masks is None:
        message = "no masks: no annotation has a 'segmentation', so that it is fit for box detectors only"
        fix = "train a detector of boxes, such as faster-rcnn_swin-t_fpn_small-data, or draw the outlines"
        findings.append(Finding("no-masks", str(annotations), message, fix, severity="warning"))
    selection = select(data, keep_empty=keep_empty, min_side=min_side)
    if for_training and (len(data.ids) or masks is not None):
        findings += find_empty_selection(data, selection)
    if images is None:
        message = "no image folder was given, and none found beside the file: images are not checked"
        findings.append(Finding("images-not-checked", str(annotations), message, "name the folder", severity="warning"))
    else:
        findings += _image_findings(data, images, progress)
    instances = ~data.crowd.numpy()
    areas = data.areas.numpy()[instances]
    per_class = np.bincount(data.labels.numpy()[instances], minlength=len(data.class_names)).tolist()
    instances_per_class = dict(zip(data.class_names, per_class, strict=True))
    counts = {
        "images": len(data.image_ids),
        "annotations": len(data.ids),
        "categories": len(instances_per_class),
        "crowd": int(data.crowd.sum()),
        "empty_images": int((data.first_annotation.diff() == 0).sum()),
        "small": int((areas < SMALL).sum()),
        "medium": int(((areas >= SMALL) & (areas < MEDIUM)).sum()),
        "large": int((areas >= MEDIUM).sum()),
    }
    report = CheckReport(
        annotations=str(annotations),
        images=shown,
        counts=counts,
        instances_per_class=instances_per_class,
        left_out=selection.left_out if for_training else {},
        problems=tuple(findings),
    )
    return report, data


def _without_path(error: DataError, path: Path) -> str:
    """The message of an error, without the path that a `Finding` names itself."""
    return str(error).removeprefix(f"{path}: ")


def _image_findings(data: CocoInstances, images: Path, progress: Progress | None) -> Iterator[Finding]:
    """What is wrong with the images, several of which are read at a time."""
    try:
        store = ImageStore(images)
    except DataError as error:
        yield Finding("image-folder", str(images), _without_path(error, images), "give the image folder or zip file")
        return
    sizes, ids = data.image_sizes.tolist(), data.image_ids.tolist()
    turned: list[int] = []

    def check(row: int) -> Finding | None:
        name, (height, width) = data.file_names.text(row), sizes[row]
        try:
            if store.read_with_turn(name, (height, width))[1]:
                turned.append(row)
        except ImageError as error:
            return Finding(error.kind, str(store.root / name), f"{name}: {error.fault}", error.fix, ids[row])
        return None

    for _, finding in in_threads(check, range(len(ids)), progress):
        # The annotation rules have named escaping file names already.
        if finding and finding.kind != "escaping-file-name":
            yield finding
    if turned:
        yield _turned_images(data, store.root, sorted(turned))


def _turned_images(data: CocoInstances, root: Path, rows: list[int]) -> Finding:
    """Images whose orientation is passed over, because their annotations state the size of the stored raster."""
    boxes = data.boxes.numpy()
    of_them = np.isin(data.images.numpy(), rows)
    height, width = data.image_sizes.numpy()[data.images.numpy()].T
    right, bottom = boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]
    fits_stored = (right <= width + 1) & (bottom <= height + 1)
    fits_turned = (right <= height + 1) & (bottom <= width + 1)
    only_turned = int((of_them & fits_turned & ~fits_stored).sum())
    name = data.file_names.text(rows[0])
    message = (
        f"{len(rows)} images ({name}, ...) carry an EXIF orientation that swaps height and width, and are annotated"
    )
    message += " with the size of the stored raster: they are read as stored, not as viewers show them"
    fix = "make sure that boxes were drawn on the stored raster; else swap width and height in the annotations"
    if only_turned:
        message += f"; {only_turned} boxes fit the turned picture only"
        fix = "swap width and height of these images in the annotations"
    severity: Severity = "error" if only_turned else "warning"
    return Finding("turned-images", str(root), message, fix, int(data.image_ids[rows[0]]), severity=severity)
