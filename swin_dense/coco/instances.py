"""COCO instance annotations as flat tensors.

Of Python objects, workers would copy page after page; here they are a few tensors (see `records.Ragged`), sorted by
image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from hotcoco import mask as rle_codec
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision import tv_tensors

from swin_dense.coco.ahead import read_ahead
from swin_dense.coco.columns import Rows, read_columns
from swin_dense.errors import DataError, Finding
from swin_dense.records import Instances, Ragged, Rle, Size


@dataclass(frozen=True)
class CocoInstances:
    """The well-formed part of a COCO instances file: n images, K categories, m annotations, sorted by image.

    Attributes:
        file: The annotation file, for messages.
        category_ids: (K,) as in the file, ascending; the position of a category is its contiguous label.
        class_names: (K,) names in the same order.
        supercategories: (K,) likewise; "" where the file gives none.
        image_ids: (n,) int64, in the order of the file.
        image_sizes: (n, 2) int64, height and width.
        file_names: n names.
        first_annotation: (n + 1,) int64; image i has annotations first_annotation[i] to first_annotation[i + 1].
        ids: (m,) int64, the annotations' own ids.
        images: (m,) int64, position of the annotation's image.
        labels: (m,) int64, contiguous.
        boxes: (m, 4) float64, x, y, width, height in pixels.
        areas: (m,) float64, in pixels.
        crowd: (m,) bool.
        polygons: Coordinates x0, y0, x1, y1, ... of all polygons, at least three points each.
        first_polygon: (m + 1,) int64; annotation a has polygons first_polygon[a] to first_polygon[a + 1].
        rles: Compressed counts of all run-length masks.
        rle_rows: (m,) int64, row of the annotation's mask in `rles`; -1 where it has polygons, or a box alone.
        rle_sizes: (R, 2) int64, height and width that each mask states.
    """

    file: str
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    supercategories: tuple[str, ...]
    image_ids: Tensor
    image_sizes: Tensor
    file_names: Ragged
    first_annotation: Tensor
    ids: Tensor
    images: Tensor
    labels: Tensor
    boxes: Tensor
    areas: Tensor
    crowd: Tensor
    polygons: Ragged
    first_polygon: Tensor
    rles: Ragged
    rle_rows: Tensor
    rle_sizes: Tensor

    @property
    def has_outline(self) -> Tensor:
        """(m,) bool, whether the annotation has a mask, and not a box alone."""
        return (self.rle_rows >= 0) | (self.first_polygon.diff() > 0)

    @property
    def sizes(self) -> dict[int, Size]:
        """Height and width of every image by its id."""
        pairs = zip(self.image_ids.tolist(), self.image_sizes.tolist(), strict=True)
        return {image_id: (height, width) for image_id, (height, width) in pairs}

    def mask(self, annotation: int) -> Rle:
        """The mask of an annotation that has an outline, given by its position, at the size of its image."""
        size = self.image_sizes[self.images[annotation]].tolist()
        row = int(self.rle_rows[annotation])
        if row >= 0:
            return {"size": size, "counts": self.rles[row].tobytes()}
        first, end = self.first_polygon[annotation : annotation + 2].tolist()
        merged: Rle = coco_mask.merge(coco_mask.frPyObjects([self.polygons[one] for one in range(first, end)], *size))
        return merged

    def masks(self) -> list[Rle]:
        """Those of all annotations, each of which has one."""
        return [self.mask(place) for place in range(len(self.ids))]

    def instances(self, image: int, places: Tensor, *, masks: bool) -> Instances:
        """Some annotations of an image, all given by their positions, in the form in which a sample has them."""
        height, width = self.image_sizes[image].tolist()
        corners, sides = self.boxes[places, :2], self.boxes[places, 2:]
        boxes = torch.cat([corners, corners + sides], dim=1).float()
        return Instances(
            boxes=tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            masks=tv_tensors.Mask(self._decoded(places.tolist(), height, width)) if masks else None,
            labels=self.labels[places],
            crowd=self.crowd[places],
        )

    def _decoded(self, places: Sequence[int], height: int, width: int) -> Tensor:
        """(N, H, W) bool masks of some annotations of one image."""
        if not places:
            return torch.zeros((0, height, width), dtype=torch.bool)
        masks = rle_codec.decode([self.mask(place) for place in places])  # (H, W, N), each mask in column order
        return torch.from_numpy(masks.transpose(2, 0, 1).view(np.bool_))

    def outline_extents(self) -> npt.NDArray[np.float64]:
        """(m, 4) left, top, right, bottom of all polygons of each annotation; NaN where it has none."""
        extents = np.full((len(self.ids), 4), np.nan)
        first_polygon = self.first_polygon.numpy()
        has_polygons = np.diff(first_polygon) > 0
        if has_polygons.any():
            coordinates = self.polygons.values.numpy()
            starts = self.polygons.offsets.numpy()[first_polygon[:-1][has_polygons]] // 2
            for axis in (0, 1):
                extents[has_polygons, axis] = np.minimum.reduceat(coordinates[axis::2], starts)
                extents[has_polygons, axis + 2] = np.maximum.reduceat(coordinates[axis::2], starts)
        return extents


def read_instances(
    source: Path | Mapping[str, Any], *, need_file_names: bool = True
) -> tuple[CocoInstances, list[Finding]]:
    """Reads the well-formed records of a COCO instances file into flat tensors; each other one is a finding.

    The source is the JSON file, or a member of a zip file as `read_json` takes it; or what it holds.
    """
    ahead = read_ahead(source) if isinstance(source, Path) and need_file_names else None
    columns, findings = ahead or read_columns(source, need_file_names=need_file_names)
    return CocoInstances(**{name: _tensors(column) for name, column in columns.items()}), findings


def _tensors(column: Any) -> Any:
    if isinstance(column, Rows):
        return Ragged(*map(torch.from_numpy, column))
    return torch.from_numpy(column) if isinstance(column, np.ndarray) else column


@dataclass(frozen=True)
class Selection:
    """What of a file is used.

    Attributes:
        images: (n,) int64 positions of the images that are used.
        instances: (m,) bool, which annotations are; the others are boxes without area.
        left_out: How many of what are not used, or not learnt from.
    """

    images: Tensor
    instances: Tensor
    left_out: dict[str, int]

    def describe(self) -> str:
        """Counts and reasons, such as "3 crowd regions, 2 images without anything to learn from"."""
        return ", ".join(f"{count} {what}" for what, count in self.left_out.items())


def select(annotations: CocoInstances, *, keep_empty: bool, min_side: int) -> Selection:
    """Chooses the images to use: those whose sides have at least `min_side` pixels, with something to learn from.

    With `keep_empty`, those with nothing, or crowd regions at most, are used too.
    """
    count = len(annotations.image_ids)
    has_area = (annotations.boxes[:, 2:] > 0).all(dim=1)
    is_small = (annotations.image_sizes < min_side).any(dim=1)
    useful = torch.bincount(annotations.images[has_area & ~annotations.crowd], minlength=count)
    is_empty = (useful == 0) & ~is_small & (not keep_empty)
    counts = {
        f"images with a side below {min_side} pixels": is_small,
        "images without anything to learn from": is_empty,
        "crowd regions": annotations.crowd,
        "boxes without area": ~has_area,
    }
    left_out = {what: int(marks.sum()) for what, marks in counts.items() if marks.any()}
    return Selection(torch.nonzero(~is_small & ~is_empty).flatten(), has_area, left_out)


def images_beside(annotations: Path) -> Path | None:
    """The images of `annotations/instances_val2017.json`, where they lie as in official COCO, if anywhere.

    They are `val2017`, `images/val2017` or `val2017.zip` beside the annotation folder.
    """
    split, root = annotations.stem.removeprefix("instances_"), annotations.parent.parent
    places = (root / split, root / "images" / split, root / f"{split}.zip")
    return next((place for place in places if place.exists()), None)


def find_annotations(root: Path, split: str) -> Path:
    """The instances file of the split "train" or "val" below `root`, where it lies as in official COCO.

    It is `annotations/instances_train.json`, or the latest year's, such as `annotations/instances_train2017.json`.
    """
    found = sorted((root / "annotations").glob(f"instances_{split}*.json"))
    if not found:
        name = f"annotations/instances_{split}*.json"
        raise DataError(
            f"{root}: no {name} in it; name the folder of a data set in COCO's layout, or the files themselves"
        )
    return found[-1]
