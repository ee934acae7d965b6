"""One of several gloo processes that score a data set together: run as `two_ranks.py RANK WORLD_SIZE STORE OUTPUT`.

Rank r is handed images r, r + WORLD_SIZE, ... and, as a distributed sampler does to make the shares even, image 0 again
where the last share is one short.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pycocotools import mask as rle_codec

from swin_dense.errors import DataError
from swin_dense.metrics import CocoMetric
from swin_dense.records import Detections

IMAGE_IDS = [3, 5, 8, 13, 21, 34, 55]
WITHOUT_DETECTIONS = 21
SIZE = (80, 100)


def truth() -> dict[str, Any]:
    random = np.random.default_rng(0)
    annotations = []
    for image_id in np.repeat(IMAGE_IDS, 4).tolist():
        x, y, width, height = random.integers(5, 40, 4).tolist()
        polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
        one = {"id": len(annotations), "image_id": image_id, "category_id": int(random.integers(1, 3)), "iscrowd": 0}
        annotations.append(one | {"bbox": [x, y, width, height], "area": width * height, "segmentation": [polygon]})
    images = [{"id": image_id, "height": SIZE[0], "width": SIZE[1]} for image_id in IMAGE_IDS]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }


def detections(image_id: int) -> Detections:
    """Noisy boxes of the image's objects in every class, with scores that tie within and between images."""
    random = np.random.default_rng(image_id)
    objects = [one["bbox"] for one in truth()["annotations"] if one["image_id"] == image_id] * 3
    count = 0 if image_id == WITHOUT_DETECTIONS else len(objects)
    boxes = np.array(objects[:count], dtype=np.float32).reshape(-1, 4) + random.integers(-2, 3, (count, 4))
    masks = []
    for x, y, width, height in boxes.astype(int):
        mask = np.zeros(SIZE, dtype=np.uint8, order="F")
        mask[y : y + height, x : x + width] = 1
        masks.append(rle_codec.encode(mask))
    boxes[:, 2:] += boxes[:, :2]
    scores, labels = random.integers(1, 4, count) / 4, random.integers(0, 2, count)
    return Detections(torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels), masks)


def metric_of(image_ids: list[int]) -> CocoMetric:
    metric = CocoMetric(truth(), category_ids=[1, 2])
    for image_id in image_ids:
        metric.update([image_id], [detections(image_id)])
    return metric


def main(rank: int, world_size: int, store: str, output: Path) -> None:
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world_size, timeout=timedelta(seconds=30))
    shares = [*IMAGE_IDS, *IMAGE_IDS[: -len(IMAGE_IDS) % world_size]]
    metric = metric_of(shares[rank::world_size])
    answer: dict[str, Any] = {"results": metric.compute(), "rows": len(metric.results())}

    metric.reset()
    metric.update(IMAGE_IDS[rank : rank + 1], [detections(IMAGE_IDS[rank])])
    try:
        metric.compute()
    except DataError as error:
        answer["incomplete"] = str(error)

    def crash(*_: object) -> None:
        raise MemoryError("no room")

    metric.reset()
    metric.update(IMAGE_IDS, list(map(detections, IMAGE_IDS)))
    metric._score = crash
    try:
        metric.compute()
    except (MemoryError, RuntimeError) as error:
        answer["crash"] = f"{type(error).__name__}: {error}"
    output.write_text(json.dumps(answer))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
