"""A small sound COCO file to break in one place, and a check of it."""

from __future__ import annotations

from typing import Any

from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 100, 150
OUTLINE = [20, 30, 60, 30, 60, 50, 20, 50]


def annotation(**other: Any) -> dict[str, Any]:
    default = {"id": 5, "image_id": 1, "category_id": 3, "bbox": [20, 30, 40, 20], "area": 800, "iscrowd": 0}
    return default | {"segmentation": [OUTLINE]} | other


def rle(height: int = HEIGHT, width: int = WIDTH) -> dict[str, Any]:
    encoded = coco_mask.frPyObjects([OUTLINE], height, width)[0]
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def document(*annotations: Any, **other: Any) -> dict[str, Any]:
    """A sound file with image 1, image 2, categories 3 and 8, and a sound annotation 4 before the given ones."""
    images = [{"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH} for number in (1, 2)]
    categories = [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}]
    return {"images": images, "annotations": [annotation(id=4), *annotations], "categories": categories} | other
