"""A small scene whose scores can be counted by hand, and detections in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as rle_codec

from swin_dense.records import Detections


def rle_of_box(box: list[float], size: tuple[int, int]) -> dict[str, Any]:
    mask = np.zeros(size, dtype=np.uint8, order="F")
    x, y, width, height = (int(number) for number in box)
    mask[y : y + height, x : x + width] = 1
    return rle_codec.encode(mask)


@pytest.fixture
def detections_of() -> Callable[..., Detections]:
    """Makes detections of x, y, width, height boxes, with masks that fill them unless `size` is None."""

    def make(boxes, scores, labels, size=(100, 120)) -> Detections:
        xywh = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        xyxy = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)
        masks = None if size is None else [rle_of_box(box, size) for box in boxes]
        return Detections(xyxy, torch.tensor(scores, dtype=torch.float32), torch.tensor(labels).long(), masks)

    return make


@pytest.fixture
def scene() -> dict[str, Any]:
    """Two images of 100 x 120, category ids with a gap and out of order: a cat in both images, a dog in the second."""
    boxes = [(1, 10, 7, [10, 20, 40, 40]), (2, 30, 7, [5, 5, 50, 50]), (3, 30, 3, [60, 50, 40, 30])]
    return {
        "images": [{"id": 10, "height": 100, "width": 120}, {"id": 30, "height": 100, "width": 120}],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {
                "id": id_,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
            for id_, image_id, category_id, (x, y, w, h) in boxes
        ],
    }
