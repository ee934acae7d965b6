"""Seconds of COCO evaluation and of mean IoU on generated predictions, beside the libraries that users know.

For COCO every contestant begins with a result file in memory, as a validation leaves it, and ends with the twelve
metrics; ours checks every detection besides. For mean IoU label maps of ADE20K's size are counted one by one. The
metrics have to agree.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as rle_codec

from swin_dense.benchmark.backbone import describe
from swin_dense.benchmark.peers import OURS
from swin_dense.benchmark.photos import ADE_SIZE, CLASSES, COCO_SIZE
from swin_dense.benchmark.processes import RemoteContestant, timed_rounds
from swin_dense.benchmark.timing import log
from swin_dense.errors import BenchmarkError
from swin_dense.metrics import COCO_METRICS, CocoMetric, MeanIoU
from swin_dense.records import IGNORE_INDEX, Detections

COCO_PEERS = {"pycocotools": "pycocotools", "faster-coco-eval": "faster_coco_eval", "hotcoco": "hotcoco"}
"""By name, the module of each."""

MIOU_PEERS = {"mmseg": "mmseg"}
OBJECTS = 10
"""Annotated objects of an image."""

AGREE = 1e-9
"""Largest difference of a metric of COCO, which is a part of 1; mmseg rounds mIoU to 0.01 %."""

MAPS = 8
"""Different label maps, which are scored in turn."""


@dataclass(frozen=True)
class MetricSettings:
    """What is scored.

    Attributes:
        images: Of the COCO evaluation.
        detections: Of an image, half of which match an object.
        masks: Whether masks are scored, too.
        label_maps: Of the mean IoU; 0 leaves it out.
        repeats: Rounds.
    """

    images: int = 5000
    detections: int = 100
    masks: bool = True
    label_maps: int = 2000
    repeats: int = 3


class CocoEvaluation:
    """One way to score the same detections, in its own process."""

    def __init__(self, name: str, settings: MetricSettings) -> None:
        self.name, self.settings = name, settings
        self.truth, self.found = generate(settings.images, settings.detections, masks=settings.masks)
        self.kinds = ("bbox", "segm") if settings.masks else ("bbox",)
        self.scores: dict[str, list[float]] = {}
        if name != OURS:
            self.rows = list(_rows(self.found))
            self.evaluation = _evaluation(name)

    def round(self) -> float:
        """Seconds of a whole evaluation."""
        if self.name == OURS:
            begin = time.perf_counter()
            metric = CocoMetric(self.truth, iou_types=self.kinds)
            metric.update(list(self.found), list(self.found.values()))
            results = metric.compute()
            seconds = time.perf_counter() - begin
            self.scores = {kind: [results[kind][name] for name in COCO_METRICS] for kind in self.kinds}
            return seconds
        truth, rows = _copy(self.truth), _copy(self.rows)  # these libraries write into what they are given
        begin = time.perf_counter()
        with redirect_stdout(io.StringIO()):
            self.scores = self.evaluation(truth, rows, self.kinds)
        return time.perf_counter() - begin

    def results(self) -> dict[str, list[float]]:
        """The twelve metrics of each kind."""
        return self.scores


class MeanIoUEvaluation:
    """Our mean IoU or mmseg's, in its own process."""

    def __init__(self, name: str, settings: MetricSettings) -> None:
        self.name, self.count = name, settings.label_maps
        random = np.random.default_rng(0)
        shapes = [random.integers(0, CLASSES, (12, 16)) for _ in range(MAPS)]
        self.truth = [_enlarged(one) for one in shapes]
        self.predicted = [
            _enlarged(np.where(random.random(one.shape) < 0.3, (one + 1) % CLASSES, one)) for one in shapes
        ]
        for one in self.truth:
            one[:8] = IGNORE_INDEX
        self.scores: dict[str, float] = {}

    def round(self) -> float:
        """Seconds of a whole evaluation."""
        names = [f"class {number}" for number in range(CLASSES)]
        pairs = [(self.predicted[number % MAPS], self.truth[number % MAPS]) for number in range(self.count)]
        if self.name == OURS:
            begin = time.perf_counter()
            metric = MeanIoU(names, range(self.count))
            for number, (predicted, truth) in enumerate(pairs):
                metric.update([number], [predicted], [truth])
            scores = metric.compute()
        else:
            from swin_dense.openmmlab.peers import mmseg_metric

            theirs = mmseg_metric(names, IGNORE_INDEX)
            begin = time.perf_counter()
            for predicted, truth in pairs:
                theirs.process({}, [{"pred_sem_seg": {"data": predicted}, "gt_sem_seg": {"data": truth}}])
            scores = theirs.evaluate(self.count)
        seconds = time.perf_counter() - begin
        self.scores = {name: float(scores[name]) for name in ("mIoU", "mAcc", "aAcc")}
        return seconds

    def results(self) -> dict[str, float]:
        """The metrics in percent."""
        return self.scores


def benchmark_metric(settings: MetricSettings) -> dict[str, Any]:
    """Measures both metrics.

    Args:
        settings: What is scored.

    Returns:
        A record ready for JSON: `coco` and `mean_iou` hold the seconds of each contestant, `best_peer` and `speedup`;
        `left_out` names the libraries that are not installed.

    Raises:
        BenchmarkError: The metrics of a peer differ from ours.

    Example:
        >>> from swin_dense.benchmark.metric import MetricSettings
        >>> MetricSettings(images=200, label_maps=0).detections
        100
    """
    absent = [name for name, module in (COCO_PEERS | MIOU_PEERS).items() if find_spec(module) is None]
    record: dict[str, Any] = {
        "benchmark": "metric",
        "device": describe(torch.device("cpu")),
        "settings": asdict(settings),
        "left_out": dict.fromkeys(absent, "not installed"),
    }
    parts: list[tuple[str, Callable[..., Any], Sequence[str], Callable[[Any, Any], bool]]] = []
    if settings.images:
        parts.append(("coco", CocoEvaluation, list(COCO_PEERS), _same_coco))
    if settings.label_maps:
        parts.append(("mean_iou", MeanIoUEvaluation, list(MIOU_PEERS), _same_miou))
    for part, make, peers, same in parts:
        small = replace(settings, images=min(settings.images, 50), label_maps=min(settings.label_maps, 2 * MAPS))
        names = [OURS, *(name for name in peers if name not in absent)]
        scores = {name: _scores(make, name, small) for name in names}
        if isinstance(scores[OURS], BenchmarkError):
            raise scores[OURS]
        for name, found in scores.items():
            if isinstance(found, BenchmarkError):
                record["left_out"][name] = str(found)
            elif not same(scores[OURS], found):
                raise BenchmarkError(f"{part}: {name} finds {found}, ours {scores[OURS]}: nothing was timed")
        names = [name for name in names if name not in record["left_out"]]
        record[part] = _measure(make, names, settings)
        log("\n".join(lines({part: record[part]})))
    return record


def _scores(make: Callable[..., Any], name: str, settings: MetricSettings) -> Any:
    """The metrics that a contestant finds, or what went wrong."""
    try:
        with closing(RemoteContestant(make, name, settings)) as process:
            process.call("round")
            return process.call("results")
    except BenchmarkError as error:
        return error


def _measure(make: Callable[..., Any], names: Sequence[str], settings: MetricSettings) -> dict[str, Any]:
    """Times one metric."""
    with ExitStack() as stack:
        processes = {name: stack.enter_context(closing(RemoteContestant(make, name, settings))) for name in names}
        found = {name: asdict(spread) for name, spread in timed_rounds(processes, settings.repeats).items()}
    rivals = [name for name in names if name != OURS]
    best = min(rivals, key=lambda name: found[name]["median"], default=None)
    speedup = None if best is None else found[best]["median"] / found[OURS]["median"]
    return {"seconds": found, "best_peer": best, "speedup": speedup}


def generate(images: int, per_image: int, *, masks: bool) -> tuple[dict[str, Any], dict[int, Detections]]:
    """A ground truth, and noisy detections of it by image id, half of which match an object."""
    random = np.random.default_rng(0)
    height, width = COCO_SIZE
    annotations: list[dict[str, Any]] = []
    detections: dict[int, Detections] = {}
    for image_id in range(1, images + 1):
        truth, labels = _boxes(random, OBJECTS), random.integers(0, 80, OBJECTS)
        for box, label in zip(truth, labels.tolist(), strict=True):
            one = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1, "iscrowd": 0}
            area = int(box[2] * box[3])
            annotations.append({**one, "bbox": box.tolist(), "area": area, "segmentation": [_ellipse(box)]})
        near = random.integers(0, OBJECTS, per_image // 2)
        found = np.concatenate([truth[near], _boxes(random, per_image - per_image // 2)])
        found[:, :2] = np.maximum(found[:, :2] + random.normal(scale=0.08, size=(per_image, 2)) * found[:, 2:], 0)
        classes = np.concatenate([labels[near], random.integers(0, 80, per_image - per_image // 2)])
        detections[image_id] = Detections(
            torch.from_numpy(np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)),
            torch.from_numpy(random.random(per_image)),
            torch.from_numpy(classes),
            rle_codec.frPyObjects([_ellipse(box) for box in found], height, width) if masks and per_image else None,
        )
    data = {
        "images": [{"id": number, "height": height, "width": width} for number in range(1, images + 1)],
        "categories": [{"id": number, "name": f"class {number}"} for number in range(1, 81)],
        "annotations": annotations,
    }
    return data, detections


def _boxes(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    """(count, 4) x, y, width, height inside the image, whole pixels, from 8 to 200 wide and high."""
    size = np.exp(random.uniform(np.log(8), np.log(200), (count, 2))).astype(int)
    corner = (random.random((count, 2)) * (np.array(COCO_SIZE[::-1]) - size)).astype(int)
    return np.concatenate([corner, size], axis=1).astype(float)


def _ellipse(box: NDArray[np.float64]) -> list[float]:
    """The polygon of the ellipse inside a box."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points: list[float] = (box[:2] + box[2:] * (1 + circle) / 2).ravel().tolist()
    return points


def _rows(found: Mapping[int, Detections]) -> Any:
    """The detections as rows of a result file."""
    for image_id, one in found.items():
        for i, (x1, y1, x2, y2) in enumerate(one.boxes.tolist()):
            row: dict[str, Any] = {
                "image_id": image_id,
                "category_id": int(one.labels[i]) + 1,
                "score": float(one.scores[i]),
            }
            row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            if one.masks is not None:
                row["segmentation"] = one.masks[i]
            yield row


def _evaluation(name: str) -> Callable[[dict[str, Any], list[dict[str, Any]], Sequence[str]], dict[str, list[float]]]:
    """What makes twelve metrics of a ground truth and results with a library."""
    module = COCO_PEERS[name]
    if name == "pycocotools":
        make, evaluator = import_module("pycocotools.coco").COCO, import_module("pycocotools.cocoeval").COCOeval
    else:
        library = import_module(module)
        make, evaluator = library.COCO, library.COCOeval_faster if name == "faster-coco-eval" else library.COCOeval

    def evaluate(truth: dict[str, Any], rows: list[dict[str, Any]], kinds: Sequence[str]) -> dict[str, list[float]]:
        if name == "pycocotools":
            annotations = make()
            annotations.dataset = {"info": {}, **truth}
            annotations.createIndex()
        else:
            annotations = make(truth)
        scores: dict[str, list[float]] = {}
        for kind in kinds:
            # A box beside a mask would decide the area by which a mask counts as small or large.
            left_out = {"segm": "bbox", "bbox": "segmentation"}[kind]
            found = annotations.loadRes([{key: row[key] for key in row if key != left_out} for row in rows])
            evaluation = evaluator(annotations, found, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            scores[kind] = [float(one) for one in evaluation.stats[: len(COCO_METRICS)]]
        return scores

    return evaluate


def _copy(value: Any) -> Any:
    """New lists and dicts that hold the same values."""
    if isinstance(value, dict):
        return {key: _copy(one) for key, one in value.items()}
    return [_copy(one) for one in value] if isinstance(value, list) else value


def _enlarged(labels: NDArray[np.integer]) -> torch.Tensor:
    """A label map of ADE20K's size."""
    height, width = ADE_SIZE
    rows, columns = (np.arange(side) * count // side for side, count in zip((height, width), labels.shape, strict=True))
    return torch.from_numpy(labels[rows[:, None], columns].astype(np.int32))


def _same_coco(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> bool:
    return all(np.allclose(ours[kind], theirs[kind], rtol=0, atol=AGREE) for kind in ours)


def _same_miou(ours: dict[str, float], theirs: dict[str, float]) -> bool:
    return all(abs(ours[name] - theirs[name]) <= 0.0051 for name in ours)


def lines(record: Mapping[str, Any]) -> list[str]:
    """The results as text."""
    shown = []
    for part in ("coco", "mean_iou"):
        if part not in record:
            continue
        for name, one in record[part]["seconds"].items():
            shown.append(f"{part:<8} {name:<17} {one['median']:8.2f} s ({one['lowest']:.2f} to {one['highest']:.2f})")
        if record[part]["speedup"] is not None:
            best, speedup = record[part]["best_peer"], record[part]["speedup"]
            shown.append(f"{part:<8} ours is {speedup:.2f} times as fast as {best}")
    return shown
