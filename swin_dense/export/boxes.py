"""Boxes whose features are wanted: reading them, and pooling (RoIAlign, He et al., arXiv 1703.06870).

Boxes are XYXY in pixels of the image on disk. Shapes: N boxes of an image, C channels, (H, W) cells.
"""

from __future__ import annotations

import json
import reprlib
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

FARTHEST = 2**30
"""No image has a pixel beyond; larger numbers would overflow on their way to float32."""


def read_boxes(path: Path, image_paths: Sequence[str]) -> dict[int, Tensor]:
    """(N, 4) float32 boxes by the index of the image; an image that the file does not name has no entry.

    The JSON file is {file name: [[x1, y1, x2, y2], ...]}, or COCO instances, whose boxes are [x, y, width, height]. A
    file name is the path of an image or the end of one.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must be an object, {{file name: [[x1, y1, x2, y2], ...]}}, or COCO instances")
    problems: list[str] = []
    if {"images", "annotations"} <= content.keys():
        named = _from_coco(content, problems)
    else:
        named = content
        problems += [problem for name, rows in named.items() for problem in _problems(name, rows)]
    if problems:
        raise DataError(f"{path}: malformed boxes", problems)
    numbers = _match(path, list(named), image_paths)
    return {numbers[name]: torch.tensor(rows, dtype=torch.float32).reshape(-1, 4) for name, rows in named.items()}


def _from_coco(content: Mapping[str, Any], problems: list[str]) -> dict[str, list[list[float]]]:
    """Corners of the boxes by file name; what is malformed is noted."""
    names: dict[int, str] = {}
    taken = set[str]()
    for place, image in _rows(content["images"]):
        number, name = image.get("id"), image.get("file_name")
        if type(number) is int and isinstance(name, str) and number not in names and name not in taken:
            names[number] = name
            taken.add(name)
        else:
            problems.append(f"malformed COCO: images[{place}] must have an id and a file_name of its own")
    boxes: dict[str, list[list[float]]] = {name: [] for name in names.values()}
    for place, annotation in _rows(content["annotations"]):
        owner: Any = annotation.get("image_id")
        box: Any = annotation.get("bbox")
        if type(owner) is not int or owner not in names:
            problems.append(f"malformed COCO: annotations[{place}] has no image_id of an image in the file")
        elif (problem := _problem(box)) is not None:
            problems.append(f"annotations[{place}]: {problem}")
        elif not (box[2] > 0 and box[3] > 0):
            problems.append(f"annotations[{place}]: {box} has no area; COCO boxes are [x, y, width, height]")
        else:
            boxes[names[owner]].append([box[0], box[1], box[0] + box[2], box[1] + box[3]])
    return boxes


def _rows(content: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """The entries of a list with their places; an empty one in place of what is none."""
    for place, row in enumerate(content if isinstance(content, list) else [content]):
        yield place, row if isinstance(row, dict) else {}


def _problems(name: str, rows: Any) -> Iterator[str]:
    name = _printable(name)
    if not isinstance(rows, list):
        yield f"{name}: must have a list of boxes"
        return
    for place, box in enumerate(rows):
        if (problem := _problem(box)) is not None:
            yield f"{name}, box {place}: {problem}"
        elif not (box[0] < box[2] and box[1] < box[3]):
            yield f"{name}, box {place}: {box} has no area; boxes are [x1, y1, x2, y2]"


def _problem(box: Any) -> str | None:
    """What is wrong with the numbers of a box; NaN and infinity are not below the limit either."""
    if isinstance(box, list) and len(box) == 4:
        if all(type(value) in (int, float) and abs(value) <= FARTHEST for value in box):
            return None
    return f"must be four finite numbers of pixels, not {reprlib.repr(box)}"


def _printable(text: str) -> str:
    """Lone surrogates, which no terminal can print, as their numbers."""
    return text.encode("utf-8", "backslashreplace").decode()


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
    problems = [
        f"{_printable(name)}: {_fault(found, image_paths)}" for name, found in fitting.items() if len(found) != 1
    ]
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
    """Refuses (N, 4) boxes that stand out of the image at `path`, and so were drawn on another one."""
    height, width = size
    limits = boxes.new_tensor([width, height, width, height])
    outside = ((boxes < -TOLERANCE) | (boxes > limits + TOLERANCE)).any(dim=1).nonzero().flatten().tolist()
    if outside:
        raise DataError(
            f"{path}: boxes outside the image, which is {width} wide and {height} high",
            [f"box {place}: {boxes[place].tolist()}" for place in outside],
        )


def pool_map(features: Tensor, boxes: Tensor, stride: int) -> Tensor:
    """RoIAlign of boxes (N, 4), in pixels of the resized image, on one map (C, H, W): (N, C, 7, 7).

    Each cell takes as many samples as it has pixels of the map.
    """
    pooled: Tensor = roi_align(features[None].float(), [boxes], CELLS, spatial_scale=1 / stride, aligned=True)
    return pooled


def pool_pyramid(levels: Sequence[tuple[Tensor, int]], boxes: Tensor) -> Tensor:
    """RoIAlign of boxes (N, 4) on the level that fits each one's size (FPN, arXiv 1612.03144, eq. 1): (N, C, 7, 7).

    That is the level where the box is 14 to 28 cells wide, or the one that comes nearest. With strides 4 to 32 a box of
    224 pixels comes from stride 16. Levels are maps (C, H, W) with their strides, finest first.
    """
    used = [level for level in levels if level[1] <= COARSEST] or list(levels[:1])
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    ideal = torch.floor(torch.log2(sides / (2 * CELLS * used[0][1]) + 1e-6)).clamp(0, len(used) - 1)
    pooled = boxes.new_zeros(len(boxes), used[0][0].shape[0], CELLS, CELLS)
    for place, (features, stride) in enumerate(used):
        chosen = ideal == place
        pooled[chosen] = pool_map(features, boxes[chosen], stride)
    return pooled
