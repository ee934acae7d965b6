"""Times the two scoring engines of `CocoMetric` on generated detections, after checking that they agree.

python tools/benchmarks/metric.py [--images 2000] [--detections 100] [--categories 80] [--masks] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle_codec

from swin_dense.metrics import COCO_METRICS, ENGINES, CocoMetric, CocoResults

HEIGHT, WIDTH = 480, 640
OBJECTS = 10  # annotated per image


@dataclass(frozen=True)
class Detections:
    """As `swin_dense.metrics.ImageDetections` describes them."""

    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor
    masks: list[dict[str, Any]] | None


def boxes_of(random: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) x, y, width, height boxes inside the image, whole pixels, from 8 to 200 wide and high."""
    size = np.exp(random.uniform(np.log(8), np.log(200), (count, 2))).astype(int)
    corner = (random.random((count, 2)) * ((WIDTH, HEIGHT) - size)).astype(int)
    return np.concatenate([corner, size], axis=1)


def rles_of(boxes: np.ndarray) -> list[dict[str, Any]]:
    """The ellipses inside boxes as compressed RLE masks."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    polygons = [(box[:2] + box[2:] * (1 + circle) / 2).ravel().tolist() for box in boxes]
    return rle_codec.frPyObjects(polygons, HEIGHT, WIDTH) if polygons else []


def generate(images: int, per_image: int, categories: int, masks: bool) -> tuple[dict[str, Any], dict[int, Detections]]:
    """A ground truth, and noisy detections of it, half of which match an object."""
    random = np.random.default_rng(0)
    annotations, detections = [], {}
    for image_id in range(1, images + 1):
        truth, labels = boxes_of(random, OBJECTS), random.integers(0, categories, OBJECTS)
        segmentations = rles_of(truth) if masks else [None] * OBJECTS
        for box, label, segmentation in zip(truth.tolist(), labels.tolist(), segmentations, strict=True):
            one = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1, "iscrowd": 0}
            annotations.append(one | {"bbox": box, "area": box[2] * box[3], "segmentation": segmentation})
        near = random.integers(0, OBJECTS, per_image // 2)
        found = np.concatenate([truth[near], boxes_of(random, per_image - per_image // 2)])
        found[:, :2] = np.maximum(found[:, :2] + random.normal(scale=0.08, size=(per_image, 2)) * found[:, 2:], 0)
        xyxy = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
        classes = np.concatenate([labels[near], random.integers(0, categories, per_image - per_image // 2)])
        detections[image_id] = Detections(
            torch.from_numpy(xyxy),
            torch.from_numpy(random.random(per_image)),
            torch.from_numpy(classes),
            rles_of(found) if masks else None,
        )
    data = {
        "images": [{"id": image_id, "height": HEIGHT, "width": WIDTH} for image_id in range(1, images + 1)],
        "categories": [{"id": label + 1, "name": f"class {label}"} for label in range(categories)],
        "annotations": annotations,
    }
    return data, detections


def measure(engine: str, truth: dict[str, Any], detections: dict[int, Detections], masks: bool) -> dict[str, Any]:
    """Seconds to check and store all detections (`update`) and to score them (`compute`), and the metrics."""
    category_ids = [category["id"] for category in truth["categories"]]
    iou_types = ("bbox", "segm") if masks else ("bbox",)
    metric = CocoMetric(truth, category_ids=category_ids, iou_types=iou_types, engine=engine)
    start = time.perf_counter()
    metric.update(list(detections), list(detections.values()))
    updated = time.perf_counter()
    results = metric.compute()
    return {"update": updated - start, "compute": time.perf_counter() - updated, "results": results}


def largest_difference(one: CocoResults, other: CocoResults) -> float:
    """Of any metric, and of the AP of any class."""
    differences = []
    for iou_type, scores in one.items():
        differences += [abs(scores[name] - other[iou_type][name]) for name in COCO_METRICS]
        per_class = other[iou_type]["per_class"]
        differences += [abs(value - per_class[name]) for name, value in scores["per_class"].items()]
    return max(differences)


def main() -> None:
    """Measures both engines and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--categories", type=int, default=80)
    parser.add_argument("--masks", action="store_true", help="score masks as well as boxes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()

    truth, detections = generate(options.images, options.detections, options.categories, options.masks)
    measured = {engine: measure(engine, truth, detections, options.masks) for engine in ENGINES}
    fast, referee = (measured[engine] for engine in ENGINES)
    difference = largest_difference(fast["results"], referee["results"])
    if difference > 1e-12:
        raise SystemExit(f"the engines disagree by {difference}: their times mean nothing")
    record = {
        "images": options.images,
        "detections": options.images * options.detections,
        "iou_types": list(fast["results"]),
        "AP": {iou_type: scores["AP"] for iou_type, scores in fast["results"].items()},
        "largest_difference": difference,
        "update_seconds": fast["update"],
        "compute_seconds": {engine: one["compute"] for engine, one in measured.items()},
        "ratio": referee["compute"] / fast["compute"],
    }
    if options.json:
        print(json.dumps(record, indent=2))
        return
    print(f"{record['images']} images, {record['detections']} detections, {' and '.join(record['iou_types'])}")
    print(f"largest difference of any metric {difference:.1e}, taking detections in {fast['update']:.1f} s")
    for engine, seconds in record["compute_seconds"].items():
        print(f"{engine:>20}  {seconds:7.1f} s")
    print(f"{'ratio':>20}  {record['ratio']:7.1f} x")


if __name__ == "__main__":
    main()
