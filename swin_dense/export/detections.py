"""Whole detectors as files: what their outputs are, how a file is run like a detector, and how far it is from one.

Shapes: B images, D detections of an image at most, N that were found, (H, W) pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as rle_codec
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_iou

from swin_dense.export.graph import whole_model
from swin_dense.records import Batch, Detections, Rle, Size, without_negative_sizes

OUTPUTS = {
    "boxes": "(batch, detections, 4) float32, x1, y1, x2, y2 in pixels of the input; zero from `count` on",
    "scores": "(batch, detections) float32 in 0..1, best first",
    "labels": "(batch, detections) int64, positions in class_names",
    "count": "(batch,) int64, how many detections of each image there are",
    "masks": "(batch, detections, 28, 28) float32 in 0..1, the probability of each cell of the box; an object is where "
    "its bilinear interpolation, with zeros around the box, is at least mask_threshold",
}
"""What the numbers mean; detectors of boxes alone have no `masks`."""

MASKS_WORSE = 100
"""A pixel is of an object or not, so a small difference in probability turns whole pixels: masks may differ by so many
times the tolerance, as a part of the pixels of their boxes."""

CELLS = 28 * 28
"""Of a mask; in a box of fewer pixels a single one would count for much."""

SAME_OBJECT = 0.5
"""Least IoU of two boxes of one object, or what no corner of them may be apart in pixels."""


class ExportedDetector(nn.Module):
    """An exported file in the place of the detector: `predict` gives the same records."""

    def __init__(self, run: Callable[[Tensor], tuple[Tensor, ...]], mask_threshold: float | None) -> None:
        """Takes a function from images (B, 3, H, W), float32 RGB in 0..255, to what `OUTPUTS` says."""
        super().__init__()
        self.run, self.mask_threshold = run, mask_threshold
        self.has_masks = mask_threshold is not None
        self.network = nn.Module()  # without parameters, which are in the file

    def predict(self, batch: Batch) -> list[Detections]:
        """The objects of each image, on the CPU, in pixels of `batch.original_sizes`, best score first."""
        (height, width), *others = batch.sizes
        assert all(size == (height, width) for size in others), "images of one size run together"
        boxes, scores, labels, counts, *masks = self.run(batch.images[:, :, :height, :width].float().cpu())
        return [
            self._detections(
                boxes[i, :n], scores[i, :n], labels[i, :n], masks and masks[0][i, :n], (height, width), size
            )
            for i, (n, size) in enumerate(zip(counts.tolist(), batch.original_sizes, strict=True))
        ]

    def _detections(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, masks: Any, seen: Size, original: Size
    ) -> Detections:
        scale = boxes.new_tensor([seen[1] / original[1], seen[0] / original[0]]).repeat(2)
        boxes = without_negative_sizes(boxes / scale)
        if self.mask_threshold is None:
            return Detections(boxes, scores, labels)
        pasted = [paste(mask, box, original, self.mask_threshold) for mask, box in zip(masks, boxes, strict=True)]
        return Detections(boxes, scores, labels, pasted)


def paste(mask: Tensor, box: Tensor, size: Size, threshold: float) -> Rle:
    """The mask of an image of this size, compressed, from the probabilities (h, w) of the cells of its box (4,)."""
    pixels: NDArray[np.uint8] = np.zeros(size, dtype=np.uint8, order="F")
    (left, top), (right, bottom) = (box[:2].floor() - 1).int().tolist(), (box[2:].ceil() + 1).int().tolist()
    (top, bottom), (left, right) = (
        (max(0, a), min(b, c)) for a, b, c in ((top, bottom, size[0]), (left, right, size[1]))
    )
    if top < bottom and left < right:
        x, y = (
            ((torch.arange(first, last) + 0.5 - box[axis]) / (box[axis + 2] - box[axis]) * 2 - 1).nan_to_num(0, 0, 0)
            for axis, first, last in ((0, left, right), (1, top, bottom))
        )
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
        sampled = functional.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        pixels[top:bottom, left:right] = (sampled >= threshold).numpy()
    encoded: Rle = rle_codec.encode(pixels)
    return encoded


def load_detector(path: Path, class_names: Sequence[str]) -> ExportedDetector:
    """An ONNX file of a whole detector of these classes.

    Raises:
        ConfigError: It is no such file.
    """
    model = whole_model(path, class_names, list(OUTPUTS)[:4])
    return ExportedDetector(model, json.loads(model.metadata["mask_threshold"]))


@dataclass(frozen=True)
class DetectionDeviation:
    """How far a file is from the detector on a batch of images.

    Attributes:
        shape: (B, 3, H, W) of the images.
        expected: Detections of the model.
        found: Detections of the file.
        matched: Of those, how many are of one object: the same label, and boxes with an IoU of `SAME_OBJECT` or more,
            or no further from each other than that many pixels.
        box_pixels: Largest difference of a matched box, in pixels.
        score: Largest difference of a matched score.
        mask: Pixels that are of the object on one side alone, at most, as a part of the pixels of its box, or of
            `CELLS` where those are more; None without masks.
    """

    shape: tuple[int, ...]
    expected: int
    found: int
    matched: int
    box_pixels: float
    score: float
    mask: float | None

    def is_within(self, tolerance: float) -> bool:
        """Whether all are matched, and differ by less than this part of the image, of 1, and of masks `MASKS_WORSE`."""
        return (
            self.expected == self.found == self.matched
            and self.box_pixels <= tolerance * max(self.shape[2:])
            and self.score <= tolerance
            and (self.mask or 0.0) <= MASKS_WORSE * tolerance
        )


def detection_deviations(
    reference: Any, exported: ExportedDetector, batches: Iterable[Tensor]
) -> list[DetectionDeviation]:
    """Runs a detector and its file on the same batches of whole-numbered images (B, 3, H, W)."""
    rows = []
    for images in batches:
        height, width = images.shape[2:]
        sizes = ((height, width),) * len(images)
        batch = Batch(images.to(torch.uint8), sizes, sizes, tuple(range(len(images))), ("image",) * len(images))
        with torch.no_grad():
            right, ours = reference.predict(batch), exported.predict(batch)
        pairs = [(one, i, other, j) for one, other in zip(right, ours, strict=True) for i, j in _matches(one, other)]
        masks = [_mask_distance(one, i, other, j) for one, i, other, j in pairs if one.masks is not None]
        rows.append(
            DetectionDeviation(
                shape=tuple(images.shape),
                expected=sum(map(len, right)),
                found=sum(map(len, ours)),
                matched=len(pairs),
                box_pixels=max((float((a.boxes[i] - b.boxes[j]).abs().max()) for a, i, b, j in pairs), default=0.0),
                score=max((abs(float(a.scores[i] - b.scores[j])) for a, i, b, j in pairs), default=0.0),
                mask=max(masks, default=0.0) if exported.has_masks else None,
            )
        )
    return rows


def _matches(right: Detections, ours: Detections) -> list[tuple[int, int]]:
    """Pairs of detections of one object: each of the model, best first, takes the nearest that is left."""
    # A box without area, or whose corners have changed sides, overlaps not even itself.
    apart = (right.boxes[:, None] - ours.boxes).abs().amax(dim=-1)
    nearness = torch.maximum(box_iou(right.boxes, ours.boxes).nan_to_num(0.0).clamp(0.0, 1.0), 1 - apart)
    nearness = nearness.masked_fill(right.labels[:, None] != ours.labels, 0.0)
    pairs = []
    for i in range(len(right)):
        j = int(nearness[i].argmax()) if len(ours) else 0
        if len(ours) and nearness[i, j] >= SAME_OBJECT:
            pairs.append((i, j))
            nearness[:, j] = 0.0
    return pairs


def _mask_distance(right: Detections, i: int, ours: Detections, j: int) -> float:
    assert right.masks is not None and ours.masks is not None
    different = rle_codec.decode(right.masks[i]) != rle_codec.decode(ours.masks[j])
    sides = (right.boxes[i, 2:] - right.boxes[i, :2]).clamp(min=0)
    return float(different.sum() / max(sides.prod().item(), CELLS))
