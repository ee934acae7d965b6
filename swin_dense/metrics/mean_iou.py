"""Mean IoU of semantic segmentation during training and evaluation, on one or several ranks."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from swin_dense.errors import DataError
from swin_dense.metrics.confusion import PairCounts, added, count_pairs, segmentation_figures
from swin_dense.metrics.distributed import broadcast_from_first_rank, gather_to_first_rank


class MeanIoU:
    """Mean IoU, mean accuracy and pixel accuracy of a data set, from one confusion matrix over all of its images.

    On several ranks each calls `update` with its own images; an image that several ranks saw counts once, and `compute`
    refuses to score when images are missing. (torchmetrics adds up the ranks' matrices, in which an image that a
    distributed sampler repeats counts twice.)

    Attributes:
        figure_names: What a training may be judged by.
    """

    figure_names = ("mIoU", "mAcc", "aAcc")

    def __init__(self, class_names: Sequence[str], image_ids: Collection[int], *, ignore_index: int) -> None:
        """Sets what is to be scored.

        Args:
            class_names: Distinct names of the classes 0..K-1.
            image_ids: The images to score.
            ignore_index: Marks the pixels of the truth that have no class and do not count.

        Raises:
            DataError: If there are no classes or images, two classes of one name, or if `ignore_index` is a class.
        """
        self._class_names = tuple(class_names)
        self._image_ids = frozenset(image_ids)
        self._ignore_index = ignore_index
        self._pairs: dict[int, PairCounts] = {}
        if not self._class_names or not self._image_ids:
            raise DataError(f"no {'images' if self._class_names else 'classes'} to score")
        if len(set(self._class_names)) != len(self._class_names):
            raise DataError(f"two of the classes {list(self._class_names)} have one name; give each its own")
        if 0 <= ignore_index < len(self._class_names):
            raise DataError(
                f"the ignore_index {ignore_index} is class {self._class_names[ignore_index]!r};"
                f" choose one beyond the {len(self._class_names)} classes"
            )

    def update(self, image_ids: Sequence[int], predicted: Sequence[Tensor], truth: Sequence[Tensor]) -> None:
        """Takes in some images, on any device; of an image that is handed in again, the last time counts.

        Args:
            image_ids: The data set's own ids.
            predicted: (H, W) integers for each image, 0..K-1 wherever the truth has a class.
            truth: (H, W) integers for each, 0..K-1 or `ignore_index`.

        Raises:
            DataError: If an image is not among those to score, if its two maps are no integer maps of one size, or a
                class is outside 0..K-1.
        """
        if not len(image_ids) == len(predicted) == len(truth):
            raise DataError(
                f"{len(image_ids)} image ids came with {len(predicted)} predicted and {len(truth)} true label maps"
            )
        for image_id, one_predicted, one_truth in zip(map(operator.index, image_ids), predicted, truth, strict=True):
            if image_id not in self._image_ids:
                raise DataError(f"image {image_id} is not among the {len(self._image_ids)} images to score")
            self._pairs[image_id] = count_pairs(
                one_predicted,
                one_truth,
                class_count=len(self._class_names),
                ignore_index=self._ignore_index,
                name=f"image {image_id}",
            )

    def compute(self) -> dict[str, Any]:
        """Scores what all ranks have seen; every rank has to call it, and every rank gets the same answer.

        Returns:
            In percent: "mIoU", "mAcc" and "aAcc" as floats, and "per_class", by class name {"IoU": float, "Acc": float}
            with NaN where a class is absent, as `segmentation_figures` says.

        Raises:
            DataError: If not every image has been seen, or no pixel has a class.
        """
        return segmentation_figures(self._gathered(), self._class_names)

    def confusion(self) -> NDArray[np.int64]:
        """Counts what all ranks have seen; every rank has to call it, and every rank gets the same answer.

        Returns:
            (K, K) pixels by true class (row) and predicted class (column).

        Raises:
            DataError: If not every image has been seen.
        """
        class_count, pairs = len(self._class_names), self._gathered()
        matrix = np.zeros(class_count**2, dtype=np.int64)
        matrix[pairs.codes] = pairs.counts
        return matrix.reshape(class_count, class_count)

    def reset(self) -> None:
        """Forgets every image, for the next evaluation."""
        self._pairs = {}

    def _gathered(self) -> PairCounts:
        """The counts of all ranks, each image once, on every rank."""
        gathered = gather_to_first_rank(self._pairs)
        answer: tuple[PairCounts, list[int]] | None = None
        if gathered is not None:
            merged = _merged(gathered)
            answer = added(list(merged.values())), sorted(self._image_ids - merged.keys())
        pairs, missing = broadcast_from_first_rank(answer)
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self._image_ids)} images to score were never seen, the first is {missing[0]};"
                " predict on them all, or name the images to score"
            )
        return pairs


def _merged(gathered: Sequence[Mapping[int, PairCounts]]) -> dict[int, PairCounts]:
    """One entry per image; of an image that several ranks saw, that of the first rank."""
    merged: dict[int, PairCounts] = {}
    for pairs in gathered:
        merged = {**pairs, **merged}
    return merged
