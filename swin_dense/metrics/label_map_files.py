"""Scores folders of label PNGs: ADE20K's official layout, or any two folders of like-named files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from swin_dense.errors import DataError
from swin_dense.images.store import ImageStore
from swin_dense.label_maps.classes import read_class_names
from swin_dense.label_maps.conversion import LabelConversion
from swin_dense.label_maps.files import LabelMap, count_labels, in_chunks, read_label_file
from swin_dense.label_maps.layout import LABEL_SUFFIXES, find_class_list, names_by_stem
from swin_dense.metrics.mean_iou import check_class_count, count_pairs, segmentation_metrics
from swin_dense.records import IGNORE_INDEX


def evaluate_label_map_files(
    ground_truth: Path,
    predictions: Path,
    *,
    label_shift: int | None = None,
    ignore_index: int = 255,
    prediction_shift: int | None = None,
    classes: Path | None = None,
) -> dict[str, Any]:
    """Scores label PNGs, in folders or zip files, against others of the same names; every file of the truth counts.

    Predictions are stored as the ground truth is, for ADE20K with the classes 1..150,
    unless `prediction_shift` says otherwise: nothing is guessed from the labels that occur.

    Args:
        ground_truth: Label PNGs at any depth, such as `annotations/validation`.
        predictions: Label PNGs of the same relative names and sizes.
        label_shift: What is added to a stored label to get its class 0..K-1; labels that fall below 0 have no class.
            None is ADE20K's -1 where the class list of its layout is used, and refused where it is not.
        ignore_index: The other stored label without a class.
        prediction_shift: As `label_shift`, where predictions are stored otherwise: 0 where they hold 0..K-1.
        classes: Class list, see `read_class_names`. None for the `objectInfo150.txt` or `.csv` of the official
            layout, beside `annotations`; where there is none either, the largest label found is the last class, and the
            classes are named by their stored labels.

    Returns:
        As `MeanIoU.compute`: "mIoU", "mAcc", "aAcc" and "per_class" in percent, NaN for absent classes.
    """
    stores = ImageStore(ground_truth), ImageStore(predictions)
    pairs = _pairs(*stores)
    official = find_class_list(ground_truth)
    if label_shift is None:
        if classes is not None or official is None:
            raise DataError(
                f"{ground_truth}: which label is the first class? Pass --label-shift 0 where it is 0, and "
                "--label-shift -1 where it is 1 and 0 does not count"
            )
        label_shift = -1
    shifts = label_shift, label_shift if prediction_shift is None else prediction_shift
    for shift in shifts:
        LabelConversion(1, shift, ignore_index)  # refuses numbers that no label can meet before any file is read
    class_list = classes or official
    if class_list is not None:
        names = read_class_names(class_list)
    else:
        last = max(
            _last_class(read_label_file(store, name).labels, shift, ignore_index)
            for pair in pairs
            for store, name, shift in zip(stores, pair, shifts, strict=True)
        )
        names = tuple(str(number - label_shift) for number in range(max(last, 0) + 1))
    check_class_count(len(names))
    conversions = tuple(LabelConversion(len(names), shift, ignore_index) for shift in shifts)
    matrix = torch.zeros(len(names), len(names), dtype=torch.int64)
    for pair in pairs:
        files = tuple(store.root / name for store, name in zip(stores, pair, strict=True))
        stored = tuple(read_label_file(store, name).labels for store, name in zip(stores, pair, strict=True))
        if stored[0].shape != stored[1].shape:
            sizes = [f"{labels.shape[1]} wide and {labels.shape[0]} high" for labels in stored]
            raise DataError(
                f"{files[1]}: is {sizes[1]}, {files[0]} {sizes[0]}; predict at the size of the image on disk"
            )
        start = 0
        for chunks in zip(*map(in_chunks, stored), strict=True):
            truth, predicted = (one.table[chunk] for one, chunk in zip(conversions, chunks, strict=True))
            wrong = truth < IGNORE_INDEX, (truth >= 0) & (predicted < 0)
            for file, labels, bad, conversion in zip(files, stored, wrong, conversions, strict=True):
                if bad.any():
                    raise _wrong_label(file, labels, start + int(bad.argmax()), conversion)
            maps = torch.from_numpy(predicted), torch.from_numpy(truth)
            matrix += count_pairs(*maps, class_count=len(names), ignore_index=IGNORE_INDEX)[0]
            start += len(truth)
    return segmentation_metrics(matrix.numpy(), names)


def _pairs(ground_truth: ImageStore, predictions: ImageStore) -> list[tuple[str, str]]:
    """The files of every image, in the order of their names; `.PNG` is one, and hidden ones are not."""
    by_stem = []
    for store in (ground_truth, predictions):
        names, ambiguous = names_by_stem(store, LABEL_SUFFIXES)
        if ambiguous:
            raise DataError(str(ambiguous[0]))
        if not names:
            raise DataError(f"{store.root}: holds no label PNG (*.png)")
        by_stem.append(names)
    wanted, found = by_stem
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    problems = [f"{ground_truth.root / wanted[stem]}: has no prediction" for stem in missing]
    problems += [f"{predictions.root / found[stem]}: has no ground truth" for stem in extra]
    if problems:
        raise DataError(
            f"{predictions.root}: does not hold one prediction for each file of {ground_truth.root}", problems
        )
    return [(wanted[stem], found[stem]) for stem in sorted(wanted)]


def _last_class(labels: LabelMap, shift: int, ignore_index: int) -> int:
    """The largest class of a label map; below 0 where there is none."""
    values, _ = count_labels(labels)
    return int(values[values != ignore_index].max(initial=-1)) + shift


def _wrong_label(file: Path, labels: LabelMap, position: int, conversion: LabelConversion) -> DataError:
    row, column = divmod(position, labels.shape[1])
    return DataError(
        f"{file}: label {labels[row, column]} at row {row}, column {column} is none of the {conversion.class_count} "
        f"classes, which are {conversion.first_label}..{conversion.last_label} here; correct the file, or say how the "
        "labels are stored (label_shift, prediction_shift)"
    )
