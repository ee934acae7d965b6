"""Counts of (true class, predicted class) pairs of pixels, sparse: an image holds few of the K x K pairs.

Shapes: K classes, E pairs that occur, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swin_dense.errors import DataError

_PIXELS_AT_ONCE = 2**20  # bounds the int64 copies of a 2048 x 4096 map to some 10 MB each
_MOST_BINS = 2**20  # beyond about a thousand classes, sorting the pixels is cheaper than a bin for every pair


@dataclass(frozen=True)
class PairCounts:
    """Pixels by pair of classes.

    Attributes:
        codes: (E,) int64, true class * K + predicted class, increasing.
        counts: (E,) int64 pixels, each at least 1.
    """

    codes: NDArray[np.int64]
    counts: NDArray[np.int64]


def count_pairs(predicted: Tensor, truth: Tensor, *, class_count: int, ignore_index: int, name: str) -> PairCounts:
    """Counts the pixels of one image where they lie; only the few counts travel to the CPU.

    Args:
        predicted: (H, W) integers, 0..K-1 wherever the truth has a class.
        truth: (H, W) integers, 0..K-1 or `ignore_index`.
        class_count: K.
        ignore_index: A pixel whose truth is this is not counted, whatever is predicted there.
        name: The image, for messages.

    Returns:
        The counts.

    Raises:
        DataError: If the maps are not integer maps of one size, or a counted pixel has a class outside 0..K-1.
    """
    for side, labels in (("predicted", predicted), ("true", truth)):
        if labels.ndim != 2 or labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
            raise DataError(
                f"{name}: the {side} map is {tuple(labels.shape)} {labels.dtype}, not (height, width) integers"
            )
    if predicted.shape != truth.shape:
        raise DataError(
            f"{name}: the predicted map is {predicted.shape[0]} x {predicted.shape[1]},"
            f" the true one {truth.shape[0]} x {truth.shape[1]} (height x width)"
        )
    ignored, outside = class_count**2, class_count**2 + 1  # two more bins: one look at the counts finds every fault
    parts = []
    for start in range(0, truth.numel(), _PIXELS_AT_ONCE):
        pixels = slice(start, start + _PIXELS_AT_ONCE)
        found = predicted.reshape(-1)[pixels].to(torch.int64)
        wanted = truth.reshape(-1)[pixels].to(found.device, torch.int64)
        codes = wanted * class_count + found
        codes[(found < 0) | (found >= class_count) | (wanted < 0) | (wanted >= class_count)] = outside
        codes[wanted == ignore_index] = ignored
        parts.append(_counted(codes, bins=class_count**2 + 2))
    counted = added(parts)
    if outside in counted.codes:
        raise DataError(f"{name}: {_first_fault(predicted, truth, class_count, ignore_index)}")
    kept = counted.codes != ignored
    return PairCounts(counted.codes[kept], counted.counts[kept])


def added(parts: Sequence[PairCounts]) -> PairCounts:
    """Adds counts up.

    Args:
        parts: Counts of the same classes.

    Returns:
        Their sum.
    """
    empty = np.zeros(0, dtype=np.int64)
    codes, positions = np.unique(np.concatenate([empty, *(part.codes for part in parts)]), return_inverse=True)
    counts = np.zeros(len(codes), dtype=np.int64)
    np.add.at(counts, positions, np.concatenate([empty, *(part.counts for part in parts)]))
    return PairCounts(codes, counts)


def segmentation_figures(pairs: PairCounts, class_names: Sequence[str]) -> dict[str, Any]:
    """Scores a whole data set from its one confusion matrix.

    A class's IoU is its hits / (its true or predicted pixels), its accuracy its hits / its true pixels. A class that is
    neither in the truth nor predicted has no IoU, one that is not in the truth has no accuracy: these are NaN, and left
    out of the means. So a class that is predicted but not there has an IoU of 0, as in mmsegmentation's IoUMetric.

    Args:
        pairs: The counts of all images.
        class_names: Distinct names of the classes 0..K-1.

    Returns:
        In percent: "mIoU", "mAcc", "aAcc" (the share of hits among all counted pixels), and "per_class", by class name
        {"IoU": float, "Acc": float}.

    Raises:
        DataError: If no pixel was counted.
    """
    if not pairs.counts.size:
        raise DataError("no pixel of the ground truth has a class; are its labels read with the right label_shift?")
    class_count = len(class_names)
    true, found = np.divmod(pairs.codes, class_count)
    hits, of_truth, of_prediction = (np.zeros(class_count, dtype=np.int64) for _ in range(3))
    np.add.at(of_truth, true, pairs.counts)
    np.add.at(of_prediction, found, pairs.counts)
    hits[true[true == found]] = pairs.counts[true == found]
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an absent class
        iou = 100.0 * hits / (of_truth + of_prediction - hits)
        accuracy = 100.0 * hits / of_truth
    return {
        "mIoU": float(np.nanmean(iou)),
        "mAcc": float(np.nanmean(accuracy)),
        "aAcc": float(100.0 * hits.sum() / of_truth.sum()),
        "per_class": {
            name: {"IoU": float(one_iou), "Acc": float(one_accuracy)}
            for name, one_iou, one_accuracy in zip(class_names, iou, accuracy, strict=True)
        },
    }


def _counted(codes: Tensor, bins: int) -> PairCounts:
    if bins <= _MOST_BINS:
        per_bin = torch.bincount(codes, minlength=bins)
        present = per_bin.nonzero().reshape(-1)
        counts = per_bin[present]
    else:
        present, counts = torch.unique(codes, return_counts=True)
    present, counts = torch.stack([present, counts]).cpu()
    return PairCounts(present.numpy(), counts.numpy())


def _first_fault(predicted: Tensor, truth: Tensor, class_count: int, ignore_index: int) -> str:
    """What is wrong with the first counted pixel that has a class outside 0..K-1."""
    wanted, found = truth.cpu().numpy(), predicted.cpu().numpy()
    outside_truth = (wanted != ignore_index) & ((wanted < 0) | (wanted >= class_count))
    outside = outside_truth | ((wanted != ignore_index) & ((found < 0) | (found >= class_count)))
    row, column = np.argwhere(outside)[0].tolist()
    side, labels = ("true", wanted) if outside_truth[row, column] else ("predicted", found)
    return (
        f"the {side} class at row {row}, column {column} is {labels[row, column]}, which is neither among the classes"
        f" 0..{class_count - 1}" + (f" nor {ignore_index}, to be ignored" if side == "true" else "")
    )
