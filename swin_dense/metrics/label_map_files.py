"""Scores folders of label PNGs: ADE20K's official layout, or any two folders of like-named files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swin_dense.errors import DataError
from swin_dense.label_maps.files import CLASS_LISTS, LabelMap, classes_of, read_class_names, read_label_map
from swin_dense.metrics.confusion import added, count_pairs, segmentation_figures

_Pair = tuple[Path, Path]
"""Files of one image: its ground truth, its prediction."""


def evaluate_label_map_files(
    ground_truth: Path,
    predictions: Path,
    *,
    label_shift: int | None = None,
    ignore_index: int = 255,
    prediction_shift: int | None = None,
    classes: Path | None = None,
) -> dict[str, Any]:
    """Scores label PNGs against others of the same names; every file of the ground truth counts.

    Predictions are stored as the ground truth is, for ADE20K with the classes 1..150,
    unless `prediction_shift` says otherwise: nothing is guessed from the labels that occur.

    Args:
        ground_truth: Folder of label PNGs, at any depth, such as `annotations/validation`.
        predictions: Folder of label PNGs of the same relative names and sizes.
        label_shift: What is added to a stored label to get its class 0..K-1; labels that fall below 0 have no class.
            None is ADE20K's -1 where the class list of its layout is used, and refused where it is not.
        ignore_index: The other stored label without a class.
        prediction_shift: As `label_shift`, where predictions are stored otherwise: 0 where they hold 0..K-1.
        classes: Class list, see `read_class_names`. None for the `objectInfo150.txt` or `.csv` of the official
            layout, beside `annotations`; where there is none either, the largest label found is the last class, and the
            classes are named by their stored labels.

    Returns:
        As `MeanIoU.compute`: "mIoU", "mAcc", "aAcc" and "per_class" in percent, NaN for absent classes.

    Raises:
        DataError: If files are missing or too many, are no label PNGs, differ in size, or hold labels out of range, or
            it is not known which label is the first class.
    """
    pairs = _pairs(ground_truth, predictions)
    if label_shift is None:
        if classes is not None or _official_class_list(ground_truth) is None:
            raise DataError(
                f"{ground_truth}: which label is the first class? Pass --label-shift 0 where it is 0, and "
                "--label-shift -1 where it is 1 and 0 does not count"
            )
        label_shift = -1
    if prediction_shift is None:
        prediction_shift = label_shift
    class_list = classes or _official_class_list(ground_truth)
    if class_list is not None:
        names = read_class_names(class_list)
    else:
        last = max(_last_class(pairs, (label_shift, prediction_shift), ignore_index))
        names = tuple(str(number - label_shift) for number in range(last + 1))
    _check_ignore_index(len(names), (label_shift, prediction_shift), ignore_index)
    counts = []
    for truth_file, predicted_file in pairs:
        truth, predicted = _read_pair(truth_file, predicted_file)
        wanted = classes_of(truth, truth_file, label_shift=label_shift, ignore_index=ignore_index)
        found = classes_of(predicted, predicted_file, label_shift=prediction_shift, ignore_index=ignore_index)
        counted = wanted != ignore_index
        _refuse_labels(truth_file, truth, counted & (wanted >= len(names)), len(names), label_shift)
        outside = counted & ((found == ignore_index) | (found >= len(names)))
        _refuse_labels(predicted_file, predicted, outside, len(names), prediction_shift)
        counts.append(
            count_pairs(
                torch.from_numpy(found),
                torch.from_numpy(wanted),
                class_count=len(names),
                ignore_index=ignore_index,
                name=str(predicted_file),
            )
        )
    return segmentation_figures(added(counts), names)


def _pairs(ground_truth: Path, predictions: Path) -> list[_Pair]:
    """The files of every image, in the order of their names."""
    wanted, found = _label_files(ground_truth), _label_files(predictions)
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    problems = [f"{wanted[name]}: has no prediction" for name in missing]
    problems += [f"{found[name]}: has no ground truth" for name in extra]
    if problems:
        raise DataError(f"{predictions}: does not hold one prediction for each file of {ground_truth}", problems)
    return [(wanted[name], found[name]) for name in sorted(wanted)]


def _label_files(folder: Path) -> dict[Path, Path]:
    """The files by name without suffix, as data are read: `.PNG` is one, and hidden ones are not."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of label PNGs")
    files: dict[Path, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.suffix.lower() != ".png" or any(part.startswith(".") for part in name.parts):
            continue
        if (other := files.setdefault(name.with_suffix(""), path)) != path:
            raise DataError(f"{other}: {path} has the same name; remove one of them")
    if not files:
        raise DataError(f"{folder}: holds no label PNG (*.png)")
    return files


def _official_class_list(ground_truth: Path) -> Path | None:
    """The class list beside the `annotations` folder that the ground truth is, or lies in."""
    folder = ground_truth.resolve()
    for candidate in (folder, folder.parent):
        if candidate.name == "annotations":
            return next(filter(Path.is_file, (candidate.parent / name for name in CLASS_LISTS)), None)
    return None


def _last_class(pairs: list[_Pair], shifts: tuple[int, int], ignore_index: int) -> Iterator[int]:
    """The largest class of each file; -1 where there is none."""
    for files in pairs:
        for file, shift in zip(files, shifts, strict=True):
            classes = classes_of(read_label_map(file), file, label_shift=shift, ignore_index=ignore_index)
            yield int(np.where(classes == ignore_index, -1, classes).max())


def _check_ignore_index(class_count: int, shifts: tuple[int, int], ignore_index: int) -> None:
    """Refuses an `ignore_index` that is a class, or the stored label of one."""
    for shift in {0, *shifts}:
        if 0 <= ignore_index + shift < class_count:
            raise DataError(
                f"the ignore_index {ignore_index} is a label of one of the {class_count} classes;"
                " choose one beyond them, such as 65535"
            )


def _read_pair(truth_file: Path, predicted_file: Path) -> tuple[LabelMap, LabelMap]:
    truth, predicted = read_label_map(truth_file), read_label_map(predicted_file)
    if truth.shape != predicted.shape:
        raise DataError(
            f"{predicted_file}: is {predicted.shape[1]} wide and {predicted.shape[0]} high, {truth_file}"
            f" {truth.shape[1]} wide and {truth.shape[0]} high; predict at the size of the image on disk"
        )
    return truth, predicted


def _refuse_labels(file: Path, stored: LabelMap, outside: NDArray[np.bool_], count: int, shift: int) -> None:
    """Refuses labels where `outside` is set: they should have been those of the classes, and are not."""
    if not outside.any():
        return
    row, column = np.argwhere(outside)[0].tolist()
    raise DataError(
        f"{file}: label {stored[row, column]} at row {row}, column {column} is none of the {count} classes, which are"
        f" {-shift}..{count - 1 - shift} here; mend the file, or say how the labels are stored (label_shift,"
        " prediction_shift)"
    )
