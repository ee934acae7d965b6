"""What a page shows of a data set before a training: classes, sizes, samples, and what looks wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swin_dense.coco.check import CheckReport
from swin_dense.coco.instances import CocoInstances, read_instances
from swin_dense.errors import DataError, Finding
from swin_dense.images.alike import difference_hash, group_alike
from swin_dense.images.finder import image_names
from swin_dense.images.labelled import open_images
from swin_dense.images.store import ImageStore
from swin_dense.label_maps.check import SegmentationReport, SplitReport
from swin_dense.label_maps.files import read_label_file
from swin_dense.label_maps.layout import match_pairs
from swin_dense.report import charts
from swin_dense.report.matching import instances_of
from swin_dense.report.page import Block, Gallery, Section, Shown, Table, Tiles, number, percent, shown, write_page
from swin_dense.visualize.detections import draw_instances
from swin_dense.visualize.pictures import as_picture, enlarged, spread
from swin_dense.visualize.segmentation import draw_segmentation

SAMPLES = 12
"""Images of a split that are shown, spread evenly."""

MOST_HASHED = 5000
"""Images of a split that are compared for near-duplicates, spread evenly."""

TINY, HUGE = 4.0, 0.95
"""Pixels of a side below which, and part of the image above which, a box is pointed out."""

LISTED = 500
"""Findings on the page."""


def write_data_report(reports: Mapping[str, Any], output: Path) -> None:
    """Writes a page about splits by name, of which each is what a check of data has given."""
    blocks: dict[str, list[Section]] = {}
    findings: list[Sequence[Any]] = []
    coco: dict[str, tuple[CocoInstances, Path | None]] = {}
    for name, report in reports.items():
        findings += [_row(name, one) for one in report.problems]
        if isinstance(report, CheckReport):
            try:
                data = read_instances(Path(report.annotations))[0]
            except DataError:  # as the findings say
                continue
            coco[name] = data, None if report.images is None else Path(report.images)
            blocks[name] = _coco_sections(name, *coco[name], report)
            findings += [_row(name, one) for one in _suspicious(data)]
        elif isinstance(report, SegmentationReport):
            blocks |= {split: _map_sections(split, one, report) for split, one in report.splits.items()}
        else:
            blocks[name] = _labelled_sections(name, report)
    findings += _alike(coco)
    sections = [one for group in blocks.values() for one in group]
    headings = ["split", "kind", "severity", "where", "what, and what to do"]
    ok = all(report.ok for report in reports.values())
    note = "Ready for training." if ok else "Errors have to be fixed before training."
    more = f" The first {LISTED:,} of {len(findings):,}." if len(findings) > LISTED else ""
    findings.sort(key=lambda row: row[2] != "error")
    table = Table(headings, findings[:LISTED]) if findings else Tiles([("findings", "0", "nothing looks wrong")])
    facts = [*blocks, "errors to fix" if not ok else "ready for training"]
    write_page(output, "Data", facts, [Section("What looks wrong", [table], note + more), *sections])


def _row(split: str, finding: Finding) -> list[Any]:
    ids = [f"{what} {one}" for what, one in (("image", finding.image_id), ("annotation", finding.annotation_id)) if one]
    text = f"{finding.message}; {finding.fix}"
    return [split, finding.kind, finding.severity, ", ".join(ids) or finding.file, text]


def _coco_sections(split: str, data: CocoInstances, images: Path | None, report: CheckReport) -> list[Section]:
    names, labels = list(data.class_names), data.labels.numpy()
    counts = np.bincount(labels[~data.crowd.numpy()], minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    sides = np.sqrt(data.areas.numpy().clip(min=0))
    boxes = data.boxes.numpy()
    tiles = [
        ("images", f"{len(data.image_ids):,}", f"{report.counts['empty_images']:,} without objects"),
        ("objects", f"{len(data.ids):,}", f"{len(names):,} classes, {report.counts['crowd']:,} crowd regions"),
        ("small", percent(report.counts["small"] / max(len(data.ids), 1)).text, "%, below 32 x 32 pixels"),
        ("large", percent(report.counts["large"] / max(len(data.ids), 1)).text, "%, 96 x 96 pixels and more"),
    ]
    per_image = np.diff(data.first_annotation.numpy())
    top = order[: charts.MOST_CLASSES]
    is_in = np.zeros((len(data.image_ids), len(names)), dtype=np.int64)
    is_in[data.images.numpy(), labels] = 1
    together = is_in[:, top].T @ is_in[:, top]
    shares = together / np.maximum(np.diag(together)[:, None], 1)
    top_names = [names[one] for one in top]
    rows = [
        [
            names[one],
            number(counts[one], 0),
            number(int(is_in[:, one].sum()), 0),
            number(np.median(sides[labels == one]) if (labels == one).any() else None, 0),
        ]
        for one in order
    ]
    blocks: list[Block] = [
        Tiles(tiles),
        charts.bars("objects by class", "objects", {"": counts[top].astype(float).tolist()}, top_names),
        charts.heat(
            "classes in one image",
            shares,
            top_names,
            top_names,
            labels=("of the images with", "so many hold, too, %"),
        ),
        charts.histogram(
            "sizes", "square root of the area, pixels", "objects", {"": sides[sides > 0]}, _bins(sides), xscale="log"
        ),
        charts.histogram(
            "width / height of boxes",
            "",
            "objects",
            {"": _ratios(boxes)},
            np.geomspace(1 / 8, 8, 33),
            xscale="log",
        ),
        charts.histogram(
            "objects of an image", "objects", "images", {"": per_image}, np.arange(per_image.max(initial=1) + 2) - 0.5
        ),
        charts.histogram(
            "images", "longer side, pixels", "images", {"": data.image_sizes.max(dim=1).values.numpy()}, 24
        ),
        Table(["class", "objects", "images", "median size, pixels"], rows, "classes"),
    ]
    if images is not None and (pictures := list(_coco_samples(data, ImageStore(images)))):
        blocks.append(Gallery(pictures, "samples"))
    return [Section(f"{split}: objects", blocks, report.annotations)]


def _bins(sides: NDArray[np.float64]) -> NDArray[np.float64]:
    positive = sides[sides > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 2.0)
    bins: NDArray[np.float64] = np.geomspace(low * 0.99, high * 1.01, 33)
    return bins


def _ratios(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = boxes[(boxes[:, 2:] > 0).all(axis=1)]
    ratios: NDArray[np.float64] = (flat[:, 2] / flat[:, 3]).clip(1 / 8, 8)
    return ratios


def _coco_samples(data: CocoInstances, store: ImageStore) -> Iterator[Shown]:
    for row in spread(len(data.image_ids), SAMPLES):
        name = data.file_names.text(row)
        try:
            image = store.read(name, tuple(data.image_sizes[row].tolist()))
        except DataError:  # the findings name it
            continue
        yield shown(draw_instances(image, instances_of(data, row), data.class_names), name)


def _suspicious(data: CocoInstances) -> Iterator[Finding]:
    """Boxes that repeat, that are tiny or huge; the rules of the check have found boxes that their masks contradict."""
    boxes, images, labels = data.boxes.numpy(), data.images.numpy(), data.labels.numpy()
    sides = data.image_sizes.numpy()[images].astype(float)
    seen: dict[tuple[Any, ...], int] = {}
    for place, (box, image, label) in enumerate(
        zip(boxes.round().tolist(), images.tolist(), labels.tolist(), strict=True)
    ):
        first = seen.setdefault((image, *box), place)
        where = data.file, int(data.image_ids[image]), int(data.ids[place])
        if first != place:
            other = "" if labels[first] == label else f", of class {data.class_names[labels[first]]}"
            yield _finding(
                "repeated-box", f"the box of annotation {int(data.ids[first])} again{other}", "keep one", *where
            )
        if not data.crowd[place] and 0 < min(box[2:]) < TINY:
            yield _finding("tiny-box", f"{box[2]:g} x {box[3]:g} pixels", "look whether it is an object", *where)
        if box[2] * box[3] > HUGE * sides[place].prod() > 0:
            yield _finding("huge-box", "it covers nearly the whole image", "look whether it is meant so", *where)


def _finding(kind: str, message: str, fix: str, file: str, image_id: int, annotation_id: int) -> Finding:
    return Finding(kind, file, message, fix, image_id, annotation_id, severity="warning")


def _alike(splits: Mapping[str, tuple[CocoInstances, Path | None]]) -> list[list[Any]]:
    """Images of different splits that look alike."""
    owners, hashes = [], []
    for split, (data, images) in splits.items() if len(splits) > 1 else ():
        store = None if images is None else ImageStore(images)
        for row in spread(len(data.image_ids), MOST_HASHED) if store is not None else ():
            name = data.file_names.text(row)
            try:
                assert store is not None
                hashes.append(difference_hash(store.read(name).numpy().transpose(1, 2, 0)))
            except DataError:
                continue
            owners.append((split, name))
    groups: dict[str, list[tuple[str, str]]] = {}
    for group, owner in zip(group_alike(hashes), owners, strict=True):
        groups.setdefault(group, []).append(owner)
    return [
        [" and ".join(dict.fromkeys(split for split, _ in one)), "near-duplicates", "warning", one[0][1], _said(one)]
        for one in groups.values()
        if len({split for split, _ in one}) > 1
    ]


def _said(owners: Sequence[tuple[str, str]]) -> str:
    names = ", ".join(f"{name} ({split})" for split, name in owners[:4])
    return f"{names} look alike; keep such images in one split, or validation scores what was learnt by heart"


def _map_sections(split: str, one: SplitReport, report: SegmentationReport) -> list[Section]:
    rows = [
        [row.class_name or "no class", number(row.label, 0), number(row.images, 0), number(row.pixels, 0)]
        for row in one.histogram
    ]
    classes = sorted((row for row in one.histogram if row.class_name), key=lambda row: -row.pixels)
    total = max(sum(row.pixels for row in classes), 1)
    top = classes[: charts.MOST_CLASSES]
    blocks: list[Block] = [
        Tiles(
            [("label maps", f"{one.pairs:,}", "with an image"), ("classes", f"{len(report.class_names):,}", "named")]
        ),
        charts.bars(
            "pixels by class",
            "% of the pixels",
            {"": [100 * row.pixels / total for row in top]},
            [row.class_name or "" for row in top],
        ),
        charts.bars(
            "label maps by class",
            "label maps",
            {"": [float(row.images) for row in top]},
            [row.class_name or "" for row in top],
        ),
        Table(["class", "label", "label maps", "pixels"], rows, "labels"),
    ]
    if pictures := list(_map_samples(one, report.class_names)):
        blocks.append(Gallery(pictures, "samples"))
    return [Section(f"{split}: label maps", blocks, one.labels)]


def _map_samples(split: SplitReport, class_names: Sequence[str]) -> Iterator[Shown]:
    try:
        images, labels = ImageStore(Path(split.images)), ImageStore(Path(split.labels))
        pairs, _ = match_pairs(images, labels)
    except DataError:
        return
    table = np.full(2**16, -1, dtype=np.int64)
    for row in split.histogram:
        if row.class_name is not None:
            table[row.label] = class_names.index(row.class_name)
    for place in spread(len(pairs), SAMPLES):
        image_name, label_name = pairs[place]
        try:
            label_map = torch.from_numpy(table[read_label_file(labels, label_name).labels])
            picture = draw_segmentation(images.read(image_name), label_map, class_names)
        except DataError:
            continue
        yield shown(picture, image_name)


def _labelled_sections(split: str, report: Any) -> list[Section]:
    """Images, or videos, of a class each."""
    tiles = [(name.replace("_", " "), f"{count:,}", "") for name, count in report.counts.items()]
    per_class = dict(sorted(report.per_class.items(), key=lambda item: -item[1]))
    top = list(per_class)[: charts.MOST_CLASSES]
    blocks: list[Block] = [Tiles(tiles)]
    if top:
        blocks.append(charts.bars("by class", "", {"": [float(per_class[name]) for name in top]}, top))
        blocks.append(
            Table(["class", "count"], [[name, number(one, 0)] for name, one in per_class.items()], wide=False)
        )
    pictures = []
    try:
        store = open_images(Path(report.place))
        names = image_names(store)
    except DataError:
        names = []
    for place in spread(len(names), 2 * SAMPLES):
        try:
            pictures.append(shown(enlarged(as_picture(store.read(names[place]))), names[place]))
        except DataError:
            continue
    if pictures:
        blocks.append(Gallery(pictures, "samples", small=True))
    return [Section(f"{split}: classes", blocks, report.place)]
