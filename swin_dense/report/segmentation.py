"""What a report shows of label maps: scores, classes, confusion, and the best and worst images with their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swin_dense.images.finder import SUFFIXES
from swin_dense.images.store import ImageStore
from swin_dense.label_maps.classes import read_classes
from swin_dense.label_maps.files import read_label_file
from swin_dense.label_maps.layout import names_by_stem
from swin_dense.metrics.mean_iou import MatchedLabelMaps, count_pairs, segmentation_metrics
from swin_dense.records import IGNORE_INDEX
from swin_dense.report import charts
from swin_dense.report.confusion import confused_pairs, confusion_chart, worst_and_best
from swin_dense.report.page import Gallery, Section, Table, Tiles, number, shown
from swin_dense.visualize.pictures import Picture, as_picture, beside, captioned, enlarged
from swin_dense.visualize.segmentation import draw_segmentation_comparison

WRONG = np.array((214, 48, 60))
"""Colour of wrong pixels, RGB."""


@dataclass(frozen=True)
class SegmentedImage:
    """One image: its name, and how its true and predicted label map (H, W), and its pixels, are read."""

    name: str
    maps: Callable[[], tuple[Tensor, Tensor]]
    image: Callable[[], Any] | None


@dataclass(frozen=True)
class SegmentationEvidence:
    """What a segmenter predicted, beside what is there."""

    images: Sequence[SegmentedImage]
    class_names: Sequence[str]
    palette: NDArray[np.uint8] | None = None

    @cached_property
    def counted(self) -> tuple[NDArray[np.int64], list[tuple[float, float]]]:
        """(K, K) pixels by true and predicted class, and the mean IoU and the share of right pixels of each image."""
        count = len(self.class_names)
        total, each = torch.zeros(count, count, dtype=torch.int64), []
        for image in self.images:
            truth, predicted = image.maps()
            matrix = count_pairs(predicted, truth, count, IGNORE_INDEX)[0]
            total += matrix
            each.append(_image_scores(matrix.numpy()))
        return total.numpy(), each

    @cached_property
    def scores(self) -> dict[str, Any]:
        """Of `segmentation_metrics`."""
        return segmentation_metrics(self.counted[0], self.class_names)


def segmentation_in_files(maps: MatchedLabelMaps, images: Path | None) -> SegmentationEvidence:
    """Of label maps in files, and a folder or zip file of images of the same names."""
    palette = None if maps.classes is None else read_classes(maps.classes)[1]
    store = None if images is None else ImageStore(images)
    names = {} if store is None else names_by_stem(store, tuple(SUFFIXES))[0]

    def read(pair: tuple[str, str]) -> tuple[Tensor, Tensor]:
        sides = zip(maps.stores, pair, maps.conversions, strict=True)
        truth, predicted = (
            torch.from_numpy(conversion.classes(read_label_file(side, name).labels, side.root / name))
            for side, name, conversion in sides
        )
        return truth, predicted

    found = []
    for pair in maps.pairs:
        stem = pair[0].rpartition(".")[0]
        image = None if store is None or stem not in names else partial(store.read, names[stem])
        found.append(SegmentedImage(pair[0], partial(read, pair), image))
    return SegmentationEvidence(found, maps.class_names, palette)


def _image_scores(matrix: NDArray[np.int64]) -> tuple[float, float]:
    """Mean IoU over the classes that are in the image, in percent, and the share of right pixels; NaN without any."""
    hits, there = matrix.diagonal(), matrix.sum(axis=1) > 0
    if not there.any():
        return float("nan"), float("nan")
    union = (matrix.sum(axis=0) + matrix.sum(axis=1) - hits)[there]
    return float(100 * (hits[there] / union).mean()), float(hits.sum() / matrix.sum())


def segmentation_headline(evidence: SegmentationEvidence) -> dict[str, float]:
    """The scores that a comparison of runs shows, in percent."""
    return {name: evidence.scores[name] for name in ("mIoU", "mAcc", "aAcc")}


def segmentation_sections(evidence: SegmentationEvidence) -> list[Section]:
    """All that is shown of the label maps."""
    scores, matrix = evidence.scores, evidence.counted[0]
    names = list(evidence.class_names)
    tiles = [
        (name, number(scores[name]).text, meaning)
        for name, meaning in (
            ("mIoU", "mean IoU of the classes, %"),
            ("mAcc", "mean share of a class's pixels that are right, %"),
            ("aAcc", "share of all pixels that are right, %"),
        )
    ]
    truth, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    rows = []
    for label, name in enumerate(names):
        one = scores["per_class"][name]
        precision = 100 * matrix[label, label] / predicted[label] if predicted[label] else float("nan")
        pixels = number(100 * truth[label] / truth.sum(), 2)
        rows.append([name, number(one["IoU"]), number(one["Acc"]), number(precision), pixels])
    headings = ["class", "IoU", "recall (Acc)", "precision", "% of the pixels"]
    chart = confusion_chart(matrix, names, "pixels")
    best_first = sorted(range(len(names)), key=lambda label: -np.nan_to_num(scores["per_class"][names[label]]["IoU"]))
    shown_first = best_first if len(names) <= charts.MOST_CLASSES else best_first[-charts.MOST_CLASSES :]
    bars = charts.bars(
        "IoU by class" + ("" if len(shown_first) == len(names) else f", the {len(shown_first)} lowest"),
        "IoU, %",
        {"": [scores["per_class"][names[label]]["IoU"] for label in shown_first]},
        [names[label] for label in shown_first],
    )
    note = f"{len(evidence.images):,} images, {int(truth.sum()):,} pixels with a class."
    sections = [
        Section("Scores", [Tiles(tiles)], note),
        Section("Classes", [Table(headings, rows)], "Percent. A dash: the class is not there."),
        Section("Errors", [bars, chart, confused_pairs(matrix, names, "pixels")]),
    ]
    if galleries := list(_galleries(evidence)):
        about = "Ground truth, prediction, and in red the pixels that are wrong; ranked by the mean IoU of an image."
        sections.append(Section("Images", galleries, about))
    return sections


def _galleries(evidence: SegmentationEvidence) -> Iterator[Gallery]:
    scores = evidence.counted[1]
    ranked = sorted((one for one in range(len(scores)) if scores[one][0] >= 0), key=lambda one: scores[one])
    for title, group in worst_and_best(ranked):
        pictures = []
        for place in group:
            one = evidence.images[place]
            if one.image is not None:
                image, (truth, predicted) = one.image(), one.maps()
                caption = (
                    f"{one.name}: mIoU {scores[place][0]:.1f} %, {100 * scores[place][1]:.1f} % of the pixels right"
                )
                both = draw_segmentation_comparison(image, truth, predicted, evidence.class_names, evidence.palette)
                errors = error_map(image, truth, predicted)
                below = np.full((both.shape[0] - errors.shape[0], errors.shape[1], 3), 255, dtype=np.uint8)
                pictures.append(shown(beside(both, np.concatenate([errors, below])), caption))
        if pictures:
            yield Gallery(pictures, title)


def error_map(image: Any, truth: Tensor, predicted: Tensor) -> Picture:
    """The image, pale, with its wrong pixels in red; what has no class in black."""
    picture = enlarged(as_picture(image))
    wanted, found = truth.cpu().numpy(), predicted.cpu().numpy()
    factor = picture.shape[0] // wanted.shape[0]
    state = np.where(wanted < 0, 2, (wanted != found).astype(np.int64)).repeat(factor, 0).repeat(factor, 1)
    drawn = (picture * 0.45 + 255 * 0.5).astype(np.uint8)
    drawn[state == 1] = (0.25 * picture[state == 1] + 0.75 * WRONG).astype(np.uint8)
    drawn[state == 2] = 0
    return captioned(drawn, "errors")
