"""Mean IoU of semantic segmentation: during training, on one or several ranks, and of folders of label PNGs.

Shapes: K classes, (H, W) pixels.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swin_dense.coco.parsing import read_json
from swin_dense.errors import DataError, option
from swin_dense.images.store import ImageStore
from swin_dense.label_maps.classes import read_class_names
from swin_dense.label_maps.conversion import LabelConversion
from swin_dense.label_maps.files import LabelMap, count_labels, in_chunks, read_label_file
from swin_dense.label_maps.layout import LABEL_SUFFIXES, find_class_list, names_by_stem
from swin_dense.metrics.distributed import scored_together
from swin_dense.records import IGNORE_INDEX

MAX_CLASSES = 4096
"""Most classes that are scored: their confusion matrix takes 128 MB."""

PIXELS_AT_ONCE = 2**20
"""Bounds the copies of a large map to some 10 MB each."""

Matrix = NDArray[np.int64]
"""(K, K) pixels by true class (row) and predicted class (column)."""


class MeanIoU:
    """Mean IoU, mean accuracy and pixel accuracy of a data set, from one confusion matrix over all of its images.

    On several ranks each calls `update` with its own images; an image that several ranks saw counts once, and `compute`
    refuses to score when images are missing. (Adding up the ranks' matrices, as torchmetrics does, counts an image that
    a distributed sampler repeats twice.) So the few pairs of classes that occur are kept image by image.

    Attributes:
        metric_names: What a training may be judged by.

    Example:
        >>> import torch
        >>> from swin_dense.metrics import MeanIoU
        >>> metric = MeanIoU(["sky", "road"], image_ids=[7])
        >>> predicted, truth = torch.tensor([[0, 0], [1, 1]]), torch.tensor([[0, 1], [1, -1]])
        >>> metric.update([7], [predicted], [truth])  # -1 has no class
        >>> scores = metric.compute()
        >>> scores["mIoU"], scores["per_class"]["road"]
        (50.0, {'IoU': 50.0, 'Acc': 50.0})
    """

    metric_names = ("mIoU", "mAcc", "aAcc")

    def __init__(
        self, class_names: Sequence[str], image_ids: Collection[int], *, ignore_index: int = IGNORE_INDEX
    ) -> None:
        """Sets what is to be scored.

        Args:
            class_names: Distinct names of the classes 0..K-1.
            image_ids: The images to score.
            ignore_index: Marks the pixels of the truth that have no class and do not count; -1 in this library's
                batches.

        Raises:
            DataError: If there are no classes or images, too many classes, two of one name, or if `ignore_index` is a
                class.
        """
        self._class_names = tuple(class_names)
        self._image_ids = frozenset(image_ids)
        self._ignore_index = ignore_index
        self._counts: dict[int, Tensor] = {}
        if not self._class_names or not self._image_ids:
            raise DataError(f"no {'images' if self._class_names else 'classes'} to score")
        check_class_count(len(self._class_names))
        if len(set(self._class_names)) != len(self._class_names):
            raise DataError(f"two of the classes {list(self._class_names)} have one name; give each its own")
        if 0 <= ignore_index < len(self._class_names):
            raise DataError(
                f"the ignore_index {ignore_index} is class {self._class_names[ignore_index]!r};"
                f" choose one beyond the {len(self._class_names)} classes"
            )
        if abs(ignore_index) >= 2**31:
            raise DataError(f"the ignore_index {ignore_index} does not fit into 32 bits; choose another, such as -1")

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
        class_count = len(self._class_names)
        for image_id, one_predicted, one_truth in zip(map(operator.index, image_ids), predicted, truth, strict=True):
            if image_id not in self._image_ids:
                raise DataError(f"image {image_id} is not among the {len(self._image_ids)} images to score")
            _check_maps(image_id, one_predicted, one_truth)
            matrix, outside = count_pairs(one_predicted, one_truth, class_count, self._ignore_index)
            if outside:
                fault = _first_fault(one_predicted, one_truth, class_count, self._ignore_index)
                raise DataError(f"image {image_id}: {fault}")
            self._counts[image_id] = matrix.cpu().to_sparse()

    def compute(self) -> dict[str, Any]:
        """Scores what all ranks have seen; every rank has to call it, and every rank gets the same answer.

        Returns:
            In percent: "mIoU", "mAcc" and "aAcc" as floats, and "per_class", by class name {"IoU": float, "Acc": float}
            with NaN where a class is absent, as `segmentation_metrics` says.

        Raises:
            DataError: If not every image has been seen, or no pixel has a class.
        """
        return segmentation_metrics(self.confusion(), self._class_names)

    def confusion(self) -> Matrix:
        """(K, K) pixels by true (row) and predicted class (column), of all ranks; every rank has to call it."""
        return scored_together(self._counts, self._image_ids, self._total)

    def reset(self) -> None:
        """Forgets every image, for the next evaluation."""
        self._counts = {}

    def _total(self, counts: Mapping[int, Tensor]) -> Matrix:
        total = torch.zeros(len(self._class_names), len(self._class_names), dtype=torch.int64)
        for one in counts.values():
            total += one
        return total.numpy()


def check_class_count(count: int) -> None:
    """Refuses more classes than a confusion matrix is made for."""
    if count > MAX_CLASSES:
        raise DataError(f"{count} classes are more than the {MAX_CLASSES} that can be scored; merge some of them")


def count_pairs(predicted: Tensor, truth: Tensor, class_count: int, ignore_index: int) -> tuple[Tensor, int]:
    """(K, K) int64 pixels by true and predicted class, and how many counted pixels have a class outside 0..K-1."""
    # One look at the counts finds every fault: classes -1 and K hold all that is below and above, a true one of K + 1
    # what is ignored. The rows begin with class -1.
    rows, columns = class_count + 3, class_count + 2
    counts = torch.zeros(rows * columns, dtype=torch.int64, device=predicted.device)
    for start in range(0, truth.numel(), PIXELS_AT_ONCE):
        pixels = slice(start, start + PIXELS_AT_ONCE)
        wanted = _as_int32(truth.reshape(-1)[pixels].to(predicted.device), class_count, ignore_index)
        codes = _as_int32(predicted.reshape(-1)[pixels], class_count).add_(wanted, alpha=columns).add_(columns + 1)
        counts += torch.bincount(codes, minlength=len(counts))
    counted = counts.view(rows, columns)[:-1]
    pairs = counted[1:-1, 1:-1]
    return pairs, int(counted.sum() - pairs.sum())


def _as_int32(labels: Tensor, class_count: int, ignore_index: int | None = None) -> Tensor:
    """Classes between -1 and K, in half the memory of int64; K + 1 is to be ignored."""
    wide = labels.to(torch.int32 if torch.iinfo(labels.dtype).max < 2**31 else torch.int64)
    within = wide.clamp(-1, class_count).to(torch.int32)
    return within if ignore_index is None else within.masked_fill_(wide == ignore_index, class_count + 1)


def segmentation_metrics(matrix: Matrix, class_names: Sequence[str]) -> dict[str, Any]:
    """Metrics of a whole data set in percent; "aAcc" is the share of hits among all counted pixels.

    A class's IoU is its hits / (its true or predicted pixels), its accuracy its hits / its true pixels. A class that is
    neither in the truth nor predicted has no IoU, one that is not in the truth has no accuracy: these are NaN, and left
    out of the means. So a class that is predicted but not there has an IoU of 0, as in mmsegmentation's IoUMetric.
    """
    if not matrix.any():
        raise DataError("no pixel of the ground truth has a class; are its labels read with the right label_shift?")
    hits, of_truth, of_prediction = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
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


def _check_maps(image_id: int, predicted: Tensor, truth: Tensor) -> None:
    for side, labels in (("predicted", predicted), ("true", truth)):
        if labels.ndim != 2 or labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
            kind = f"{tuple(labels.shape)} {labels.dtype}"
            raise DataError(f"image {image_id}: the {side} map is {kind}, not (height, width) integers")
    if predicted.shape != truth.shape:
        raise DataError(
            f"image {image_id}: the predicted map is {predicted.shape[0]} x {predicted.shape[1]},"
            f" the true one {truth.shape[0]} x {truth.shape[1]} (height x width)"
        )


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
        predictions: Label PNGs of the same relative names and sizes, or what `swin-dense predict` has filled.
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
    maps = match_label_maps(
        ground_truth,
        predictions,
        label_shift=label_shift,
        ignore_index=ignore_index,
        prediction_shift=prediction_shift,
        classes=classes,
    )
    stores, pairs, conversions, names = maps.stores, maps.pairs, maps.conversions, maps.class_names
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
            chunk_maps = torch.from_numpy(predicted), torch.from_numpy(truth)
            matrix += count_pairs(*chunk_maps, class_count=len(names), ignore_index=IGNORE_INDEX)[0]
            start += len(truth)
    return segmentation_metrics(matrix.numpy(), names)


class MatchedLabelMaps(NamedTuple):
    """Label maps of the truth and predicted ones of the same names, in this order in each pair, and what they mean."""

    stores: tuple[ImageStore, ImageStore]
    pairs: list[tuple[str, str]]
    conversions: tuple[LabelConversion, LabelConversion]
    class_names: tuple[str, ...]
    classes: Path | None  # the class list, if there is one


def match_label_maps(
    ground_truth: Path,
    predictions: Path,
    *,
    label_shift: int | None,
    ignore_index: int,
    prediction_shift: int | None,
    classes: Path | None,
) -> MatchedLabelMaps:
    """Finds the files that `evaluate_label_map_files` scores, whose arguments these are, and reads the class list."""
    stores = ImageStore(ground_truth), ImageStore(_label_folder(predictions))
    pairs = _pairs(*stores)
    official = find_class_list(ground_truth)
    if label_shift is None:
        if classes is not None or official is None:
            raise DataError(
                f"{ground_truth}: which label is the first class? Pass {option('label_shift', 0)} where it is 0, "
                f"and {option('label_shift', -1)} where it is 1 and 0 does not count"
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
    truth, predicted = (LabelConversion(len(names), shift, ignore_index) for shift in shifts)
    if class_list is not None:
        _check_numbers(stores[1], predicted, names, class_list)
    return MatchedLabelMaps(stores, pairs, (truth, predicted), names, class_list)


def _label_folder(predictions: Path) -> Path:
    """The folder itself; of what `swin-dense predict` has filled, that of the label maps, also by its JSON file."""
    filled = predictions.parent if predictions.name == "predictions.json" else predictions
    labels = filled / "labels"
    return labels if (filled / "predictions.json").is_file() and labels.is_dir() else predictions


def _check_numbers(store: ImageStore, conversion: LabelConversion, names: Sequence[str], class_list: Path) -> None:
    """Refuses label maps of `predict` whose numbers mean other classes than in a list that has them in another order.

    The JSON file beside them says which classes occur in each. Maps are read until each class was met.
    """
    said = store.root.parent / "predictions.json"
    rows = read_json(said) if store.root.name == "labels" and said.is_file() else []
    met: set[str] = set()
    for row in rows if isinstance(rows, list) else []:
        classes, file = (row.get("classes"), row.get("labels")) if isinstance(row, dict) else (None, None)
        if not isinstance(classes, dict) or type(file) is not str or met >= classes.keys():
            continue
        name = file.removeprefix("labels/")
        if not (store.root / name).is_file():
            continue
        labels = conversion.table[read_label_file(store, name).labels]
        found = {names[label] for label in np.unique(labels).tolist() if 0 <= label < len(names)}
        if found != classes.keys() and classes.keys() <= set(names):
            raise DataError(
                f"{store.root / name}: its numbers are those of {', '.join(sorted(found))} in {class_list}, and {said} "
                f"says {', '.join(sorted(classes))}: name the list of the data that the model was trained on, "
                f"{option('classes', 'FILE')}"
            )
        met |= classes.keys()


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
