"""Top-1 and top-5 accuracy of a classifier, on one or several ranks, and of files.

Shapes: K classes.
"""

from __future__ import annotations

import csv
import io
import json
import operator
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swin_dense.errors import DataError, option
from swin_dense.files import is_there
from swin_dense.images.files import list_files
from swin_dense.images.finder import VIDEOS, image_names
from swin_dense.images.labelled import read_class_list, read_label_list
from swin_dense.images.store import ImageStore
from swin_dense.metrics.distributed import merged_on_first_rank, scored_together

BEST = 5
"""Classes of an image that are kept, surest first."""


class Row(NamedTuple):
    """One image."""

    label: int  # its true class
    best: tuple[int, ...]  # its surest classes
    file_name: str = ""
    probabilities: tuple[float, ...] = ()  # of these classes, where they are known


class Accuracy:
    """Accuracy of a data set: the share of images whose class is the surest one, or among the five surest.

    On several ranks each calls `update` with its own images; an image that several ranks saw counts once, and `compute`
    refuses to score when images are missing. Of classes that are equally sure, the first comes first.

    Attributes:
        metric_names: What a training may be judged by.

    Example:
        >>> import torch
        >>> from swin_dense.metrics import Accuracy
        >>> metric = Accuracy(["cat", "dog"], image_ids=[7, 8])
        >>> metric.update([7, 8], torch.tensor([[0.9, 0.1], [0.6, 0.4]]), labels=[0, 1])
        >>> scores = metric.compute()
        >>> scores["top1"], scores["top5"], scores["per_class"]["dog"]
        (0.5, 1.0, {'accuracy': 0.0, 'images': 1, 'taken_for': {'cat': 1}})
    """

    metric_names = ("top1", "top5")

    def __init__(self, class_names: Sequence[str], image_ids: Collection[int]) -> None:
        """Sets what is to be scored.

        Args:
            class_names: Distinct names of the classes 0..K-1.
            image_ids: The images to score.

        Raises:
            DataError: If there are no classes or images, or two classes of one name.
        """
        self._class_names = tuple(class_names)
        self._image_ids = frozenset(image_ids)
        self._rows: dict[int, Row] = {}
        if not self._class_names or not self._image_ids:
            raise DataError(f"no {'images' if self._class_names else 'classes'} to score")
        if len(set(self._class_names)) != len(self._class_names):
            raise DataError("two of the classes have one name; give each its own")

    def update(
        self, image_ids: Sequence[int], scores: Tensor, labels: Sequence[int], file_names: Sequence[str] | None = None
    ) -> None:
        """Takes in some images, on any device; of an image that is handed in again, the last time counts.

        Args:
            image_ids: The data set's own ids.
            scores: (B, K), the higher the surer; `results` calls them probabilities.
            labels: The true class of each image.
            file_names: Of the images, for `results`; None takes their ids.

        Raises:
            DataError: If an image is not among those to score, a score is NaN, or a class is outside 0..K-1.
        """
        count = len(self._class_names)
        if scores.shape != (len(image_ids), count) or len(labels) != len(image_ids):
            raise DataError(
                f"{len(image_ids)} image ids came with scores {tuple(scores.shape)} and {len(labels)} labels"
            )
        if scores.isnan().any():
            raise DataError(f"scores of the images {list(image_ids)[:5]} are not numbers; look at the weights")
        ordered = scores.sort(dim=1, descending=True, stable=True)
        best, sureness = (part[:, :BEST].tolist() for part in (ordered.indices, ordered.values))
        ids = list(map(operator.index, image_ids))
        names = map(str, ids) if file_names is None else file_names
        for image_id, label, found, sure, name in zip(ids, labels, best, sureness, names, strict=True):
            if image_id not in self._image_ids:
                raise DataError(f"image {image_id} is not among the {len(self._image_ids)} images to score")
            if not 0 <= label < count:
                raise DataError(f"image {image_id}: the class {label} is not among 0..{count - 1}")
            self._rows[image_id] = Row(int(label), tuple(found), name, tuple(sure))

    def compute(self) -> dict[str, Any]:
        """Scores what all ranks have seen; every rank has to call it, and every rank gets the same answer.

        Returns:
            "top1" and "top5" in 0..1, and "per_class", by class name: its "accuracy" (NaN without images), "images",
            and "taken_for": the wrong classes that were the surest, with the number of images, most first.

        Raises:
            DataError: If not every image has been seen.
        """
        return accuracy_scores(self._gathered(), self._class_names)

    def confusion(self) -> NDArray[np.int64]:
        """(K, K) images by true (row) and surest class (column), of all ranks; every rank has to call it."""
        rows, count = self._gathered(), len(self._class_names)
        codes = torch.tensor([row.label * count + row.best[0] for row in rows], dtype=torch.int64)
        matrix: NDArray[np.int64] = torch.bincount(codes, minlength=count * count).view(count, count).numpy()
        return matrix

    def results(self) -> list[dict[str, Any]]:
        """The surest classes of the images of all ranks, in the order of ids; every rank has to call it.

        Returns:
            On rank 0, rows {"file_name", "classes", "probabilities"} as `swin-dense predict` writes them, ready for
            JSON. On other ranks, which have nothing to write, an empty list.
        """
        rows = merged_on_first_rank(self._rows) or {}
        return [
            {
                "file_name": rows[image_id].file_name,
                "classes": [self._class_names[label] for label in rows[image_id].best],
                "probabilities": list(rows[image_id].probabilities),
            }
            for image_id in sorted(rows)
        ]

    def reset(self) -> None:
        """Forgets every image, for the next evaluation."""
        self._rows = {}

    def _gathered(self) -> list[Row]:
        return scored_together(self._rows, self._image_ids, lambda rows: list(rows.values()))


def accuracy_scores(rows: Sequence[Row], class_names: Sequence[str]) -> dict[str, Any]:
    """The scores of images, each with its true class and its surest classes; see `Accuracy.compute`."""
    surest: list[Counter[int]] = [Counter() for _ in class_names]  # a matrix of ImageNet-22K's classes takes 4 GB
    for row in rows:
        surest[row.label][row.best[0]] += 1
    per_class: dict[str, Any] = {}
    for label, (name, found) in enumerate(zip(class_names, surest, strict=True)):
        images, right = found.total(), found.pop(label, 0)
        wrong = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
        per_class[name] = {
            "accuracy": right / images if images else float("nan"),
            "images": images,
            "taken_for": {class_names[other]: count for other, count in wrong},
        }
    return {
        "top1": sum(row.label == row.best[0] for row in rows) / len(rows),
        "top5": sum(row.label in row.best for row in rows) / len(rows),
        "per_class": per_class,
    }


def evaluate_predicted_classes(truth: Path, predictions: Path, *, classes: Path | None = None) -> dict[str, Any]:
    """Accuracy of the classes that `swin-dense predict` has written, against the true ones; see `predicted_rows`."""
    return accuracy_scores(*predicted_rows(truth, predictions, classes))


def are_classes(truth: Path, predictions: Path) -> bool:
    """Whether these two are of whole images: a list of labels, or a folder and a table of classes for its images."""
    if truth.suffix == ".txt" or not (is_there(truth) and truth.is_dir()):
        return truth.suffix == ".txt"
    filled = predictions if predictions.is_dir() else predictions.parent
    by_class = (filled / "predictions.csv").is_file() or (predictions.is_file() and not (filled / "labels").is_dir())
    return by_class and (predictions.is_dir() or predictions.suffix in (".json", ".csv"))


def predicted_rows(truth: Path, predictions: Path, classes: Path | None) -> tuple[list[Row], tuple[str, ...]]:
    """The labelled images with the classes that `swin-dense predict` has written, and the class names.

    Images are matched by their whole names, or else by the last parts; by the name alone where no two have the same.

    Args:
        truth: Text file of lines "path label", whose labels are numbers or names of classes; or a folder with a folder
            of images, or of videos where these were predicted, for each class.
        predictions: `predictions.csv` or `predictions.json` of `swin-dense predict`, or their folder.
        classes: Text file with one class per line, in the order of labels; needed where labels are numbers.

    Raises:
        DataError: A file is not what it should be, or an image has no prediction, or two.
    """
    listed = None if classes is None else read_class_list(classes)
    named = {} if listed is None else dict(zip(listed.folders, listed.names, strict=True))
    named |= {} if listed is None else {str(label): name for label, name in enumerate(listed.names)}
    best = _read_predictions(predictions)
    labels = {name: named.get(word, word) for name, word in _labels_of(truth, best).items()}
    if listed is None and any(word.isdigit() for word in labels.values()):
        raise DataError(
            f"{truth}: its labels are numbers; name a file with one class name per line: {option('classes', 'FILE')}"
        )
    by_last: dict[str, list[str]] = {}
    for name in best:
        by_last.setdefault(name.replace("\\", "/").rpartition("/")[2], []).append(name)
    last_of_truth = Counter(name.rpartition("/")[2] for name in labels)
    pairs: list[tuple[str, str, str]] = []
    problems = []
    for name, word in labels.items():
        last = name.rpartition("/")[2]
        near = [name] if name in best else by_last.get(last, [])
        # Folders of classes often hold files of the same names: another's prediction is none of this one.
        near = [one for one in near if _is_end(name, one)] or (near if last_of_truth[last] == 1 else [])
        if len(near) == 1:
            pairs.append((name, word, near[0]))
        else:
            problems.append(f"{name}: {f'{len(near)} predictions' if near else 'no prediction'}")
    uses = Counter(found for _, _, found in pairs)
    problems += [f"{name}: its prediction, {found}, is another's, too" for name, _, found in pairs if uses[found] > 1]
    if problems or not pairs:
        raise DataError(f"{predictions}: {len(problems)} of {len(labels)} images cannot be scored", problems)
    met = {one for _, word, found in pairs for one in (word, *best[found][0])}
    names = tuple(listed.names if listed else sorted(met))
    place = {name: label for label, name in enumerate(names)}
    if unknown := sorted(met - place.keys()):
        raise DataError(f"{predictions}: {unknown[0]!r} is not among the classes of {classes}")
    rows = []
    for name, word, found in pairs:
        surest, probabilities = best[found]
        rows.append(Row(place[word], tuple(place[one] for one in surest[:BEST]), name, probabilities[:BEST]))
    return rows, names


def _is_end(name: str, other: str) -> bool:
    """Whether one of two paths is the other, or its last parts."""
    one, two = (f"/{each.replace(chr(92), '/')}" for each in (name, other))
    return one.endswith(two) or two.endswith(one)


def _labels_of(truth: Path, predicted: Collection[str]) -> dict[str, str]:
    """Labels by file name, of a list, or of folders of what the predictions are of."""
    if not truth.is_dir():
        return read_label_list(truth)

    of_videos = any(name.lower().endswith(VIDEOS) for name in predicted)
    kind = "videos" if of_videos else "images"
    names = list_files(truth, VIDEOS) if of_videos else image_names(ImageStore(truth))
    advice = f"name a folder with a folder of {kind} for each class"
    if not names:
        raise DataError(f"{truth}: no {kind} in it; {advice}")
    if first := next((name for name in names if "/" not in name), None):
        raise DataError(f"{truth / first}: lies in no folder of a class; {advice}")
    return {name: name.partition("/")[0] for name in names}


def _read_predictions(path: Path) -> dict[str, tuple[Sequence[str], tuple[float, ...]]]:
    """The classes of each image by file name, surest first, and their probabilities, where the file has them."""
    path = path / "predictions.json" if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            table = csv.DictReader(io.StringIO(text))
            ranks = [name[5:] for name in table.fieldnames or () if re.fullmatch(r"class\d+", name)]
            rows: list[dict[str, Any]] = [
                {
                    "file_name": row["file_name"],
                    "classes": [row[f"class{rank}"] for rank in ranks if row[f"class{rank}"]],
                    "probabilities": [row[name] for rank in ranks if row.get(name := f"probability{rank}")],
                }
                for row in table
            ]
        else:
            rows = json.loads(text)
        found: dict[str, tuple[Sequence[str], tuple[float, ...]]] = {}
        for row in rows:
            classes, sure = row["classes"], tuple(map(float, row.get("probabilities", ())))
            found[row["file_name"]] = (classes, sure if len(sure) == len(classes) else ())
            if not classes or not all(isinstance(one, str) for one in classes):
                raise ValueError("an image has no classes")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, csv.Error, RecursionError) as error:
        raise DataError(f"{path}: is no file of predicted classes ({error})") from error
    return found
