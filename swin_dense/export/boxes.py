"""Boxes whose features are wanted: reading them, and pooling (RoIAlign, He et al., arXiv 1703.06870).

Boxes are XYXY in pixels of the image on disk. Shapes: N boxes of an image, C channels, (H, W) cells.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align

from swin_dense.errors import DataError
from swin_dense.records import Size

CELLS = 7
"""Side of a pooled box in cells, as box heads have it."""

COARSEST = 32
"""Greatest stride of a level that boxes are pooled from; RPNs alone look at coarser ones."""

TOLERANCE = 1.0
"""Pixels that a box may stand out of its image, as rounded annotations do."""


def read_boxes(path: Path, image_paths: Sequence[str]) -> dict[int, Tensor]:
    """Reads the boxes of images.

    Args:
        path: JSON file: {file name: [[x1, y1, x2, y2], ...]}, or COCO instances, whose boxes are [x, y, width, height].
            A file name is the path of an image or the end of one.
        image_paths: The images.

    Returns:
        (N, 4) float32 boxes by the place of the image; an image that the file does not name has no entry.

    Raises:
        DataError: The file cannot be read, a box is malformed or empty, or a name fits none of the images or several.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must be an object, {{file name: [[x1, y1, x2, y2], ...]}}, or COCO instances")
    try:
        named = _from_coco(content) if {"images", "annotations"} <= content.keys() else content
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: malformed COCO instances ({type(error).__name__}: {error})") from error
    problems = [problem for name, rows in named.items() for problem in _problems(name, rows)]
    if problems:
        raise DataError(f"{path}: malformed boxes", problems)
    numbers = _match(path, list(named), image_paths)
    return {numbers[name]: torch.tensor(rows, dtype=torch.float32).reshape(-1, 4) for name, rows in named.items()}


def _from_coco(content: Mapping[str, Any]) -> dict[str, Any]:
    names = {image["id"]: image["file_name"] for image in content["images"]}
    boxes: dict[str, Any] = {name: [] for name in names.values()}
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        boxes[names[annotation["image_id"]]].append([x, y, x + width, y + height])
    return boxes


def _problems(name: str, rows: Any) -> Iterator[str]:
    if not isinstance(rows, list):
        yield f"{name}: must have a list of boxes"
        return
    for place, box in enumerate(rows):
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
            yield f"{name}, box {place}: must be four finite numbers, not {box}"
        elif not (box[0] < box[2] and box[1] < box[3]):
            yield f"{name}, box {place}: {box} has no area; boxes are [x1, y1, x2, y2]"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _match(path: Path, names: Sequence[str], image_paths: Sequence[str]) -> dict[str, int]:
    """The place of the one image that each name fits: its path ends with the whole parts of the name."""
    wanted = {PurePosixPath(name.replace("\\", "/")).parts: name for name in names}
    depths = {len(parts) for parts in wanted}
    fitting: dict[str, list[int]] = {name: [] for name in names}
    for number, image_path in enumerate(image_paths):
        parts = Path(image_path).parts
        for depth in depths:
            if depth <= len(parts) and parts[len(parts) - depth :] in wanted:
                fitting[wanted[parts[len(parts) - depth :]]].append(number)
    numbers = {name: found[0] for name, found in fitting.items() if len(found) == 1}
    problems = [f"{name}: {_fault(found, image_paths)}" for name, found in fitting.items() if len(found) != 1]
    if len(wanted) < len(names) or len(set(numbers.values())) < len(numbers):
        problems.append("two names mean the same image")
    if problems:
        raise DataError(
            f"{path}: boxes without their one image; name the images by longer paths, or leave out", problems
        )
    return numbers


def _fault(found: Sequence[int], image_paths: Sequence[str]) -> str:
    return f"fits {image_paths[found[0]]} and {image_paths[found[1]]}" if found else "no such image is exported"


def check_inside(boxes: Tensor, size: Size, path: str) -> None:
    """Refuses boxes that were drawn on another image than this one.

    Args:
        boxes: (N, 4) XYXY.
        size: Height and width of the image.
        path: Of the image.

    Raises:
        DataError: A box stands more than a pixel out of the image.
    """
    height, width = size
    limits = boxes.new_tensor([width, height, width, height])
    outside = ((boxes < -TOLERANCE) | (boxes > limits + TOLERANCE)).any(dim=1).nonzero().flatten().tolist()
    if outside:
        raise DataError(
            f"{path}: boxes outside the image, which is {width} wide and {height} high",
            [f"box {place}: {boxes[place].tolist()}" for place in outside],
        )


def pool_map(features: Tensor, boxes: Tensor, stride: int) -> Tensor:
    """RoIAlign on one map.

    Args:
        features: (C, H, W).
        boxes: (N, 4) in pixels of the resized image.
        stride: Pixels per cell.

    Returns:
        (N, C, 7, 7). As many samples per cell as it has pixels of the map.
    """
    pooled: Tensor = roi_align(features[None].float(), [boxes], CELLS, spatial_scale=1 / stride, aligned=True)
    return pooled


def pool_pyramid(levels: Sequence[tuple[Tensor, int]], boxes: Tensor) -> Tensor:
    """RoIAlign on the level that fits each box's size (equation 1 of FPN, arXiv 1612.03144).

    That is the level where the box is 14 to 28 cells wide, or the one that comes nearest. With strides 4 to 32 a box of
    224 pixels comes from stride 16.

    Args:
        levels: (C, H, W) maps and their strides, finest first.
        boxes: (N, 4) in pixels of the resized image.

    Returns:
        (N, C, 7, 7).
    """
    used = [level for level in levels if level[1] <= COARSEST] or list(levels[:1])
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    ideal = torch.floor(torch.log2(sides / (2 * CELLS * used[0][1]) + 1e-6)).clamp(0, len(used) - 1)
    pooled = boxes.new_zeros(len(boxes), used[0][0].shape[0], CELLS, CELLS)
    for place, (features, stride) in enumerate(used):
        chosen = ideal == place
        pooled[chosen] = pool_map(features, boxes[chosen], stride)
    return pooled
