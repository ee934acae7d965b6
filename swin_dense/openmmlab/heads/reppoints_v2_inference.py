"""From the outputs of RepPoints V2 to detections: scores, boxes that corners correct, and non-maximum suppression.

Shapes: P cells of all levels, n points of a cell, M numbers that describe a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmcv.ops import batched_nms
from mmdet.models.utils import filter_scores_and_topk
from mmengine.structures import InstanceData
from torch import Tensor

from swin_dense.openmmlab.heads.grid import Grid, clipped, flatten_levels, mask_points, to_boxes, to_points


@dataclass(frozen=True)
class LevelOutputs:
    """What the head predicts on one level of (H, W) cells, for B images and K classes."""

    class_logits: Tensor  # (B, K, H, W)
    first_offsets: Tensor  # (B, 2n, H, W) float32 y and x of each point from its cell, in units of the stride
    refined_offsets: Tensor  # likewise, after the second step
    corner_logits: Tensor  # (B, 2, H, W) of top left and bottom right corners
    corner_offsets: Tensor  # (B, 4, H, W) float32 x and y to top left and bottom right corner, in strides
    foreground_logits: Tensor  # (B, K, H, W) of lying inside a box
    mask_params: Tensor | None  # (B, M, H, W) float32; None without masks


def detect(
    outputs: Sequence[LevelOutputs],
    strides: Sequence[int],
    metas: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    rescale: bool,
) -> list[Any]:
    """The objects of each image, in pixels of the original image with `rescale`.

    They are mmengine `InstanceData`, best score first: `bboxes` (N, 4), `scores` (N,), `labels` (N,), and for a mask
    head `points` (N, 2), `strides` (N,) and `param_preds` (N, M). `settings` are the head's `test_cfg`, `metas` mmdet's
    `img_shape` and `scale_factor` of each image.
    """
    found = []
    for image, meta in enumerate(metas):
        candidates = [
            _candidates(outputs, level, image, strides, meta["img_shape"], settings) for level in range(len(outputs))
        ]
        found.append(_suppress(InstanceData.cat(candidates), meta, settings, rescale))
    return found


def _candidates(
    outputs: Sequence[LevelOutputs],
    level: int,
    image: int,
    strides: Sequence[int],
    image_size: Sequence[int],
    settings: Mapping[str, Any],
) -> Any:
    """The best cells of one level, each with its corrected box."""
    predicted = outputs[level]
    grid = Grid.of([predicted.class_logits], strides[level : level + 1])
    scores = flatten_levels([predicted.class_logits[image : image + 1]])[0].sigmoid()
    scores, labels, cells, _ = filter_scores_and_topk(scores, settings["score_thr"], settings["nms_pre"])
    chosen = Grid(grid.xy[cells], grid.strides[cells], [len(cells)])
    first, refined = (
        to_points(flatten_levels([offsets[image : image + 1]])[0][cells], chosen)
        for offsets in (predicted.first_offsets, predicted.refined_offsets)
    )
    found = InstanceData(
        bboxes=_corrected(clipped(to_boxes(refined), image_size), outputs, level, image, strides, image_size),
        scores=scores,
        labels=labels,
        points=mask_points(first, chosen.strides),
        strides=chosen.strides,
    )
    if predicted.mask_params is not None:
        found.param_preds = flatten_levels([predicted.mask_params[image : image + 1]])[0][cells]
    return found


def _corrected(
    boxes: Tensor,
    outputs: Sequence[LevelOutputs],
    level: int,
    image: int,
    strides: Sequence[int],
    image_size: Sequence[int],
) -> Tensor:
    """Corners of the finest level correct the boxes of the next two, those of the second the boxes of the rest."""
    if level == 0:
        return boxes
    source = 0 if level <= 2 else 1
    corners = outputs[source].corner_logits[image : image + 1], outputs[source].corner_offsets[image : image + 1]
    return clipped(refine_corners(boxes[None], *corners, strides[source])[0], image_size)


def refine_corners(boxes: Tensor, logits: Tensor, offsets: Tensor, stride: int) -> Tensor:
    """Joint inference (RepPoints V2, section 3.4): moves each corner of boxes to the strongest corner around it.

    The strongest of the four cells around a corner of boxes (B, N, 4), by the logits (B, 2, H, W) of the heatmaps,
    gives its place with its offset, of (B, 4, H, W) in units of the stride. Boxes are in pixels, inside the image. So
    that tracers can leave them open, sizes are numbers, not tensors, and a part is taken of maps that are flat.
    """
    height, width = logits.shape[2:]
    first = torch.stack([boxes[..., :2], boxes[..., 2:]], dim=1).div(stride).floor().long()  # (B, 2, N, 2)
    x, y = (first[..., axis].clamp(max=side - 2).clamp(min=0) for axis, side in enumerate((width, height)))
    across, down = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 1]], device=boxes.device)
    x, y = (x[..., None] + across).clamp(max=width - 1), (y[..., None] + down).clamp(max=height - 1)
    places = y * width + x  # (B, 2, N, 4)
    best = logits.flatten(2).gather(2, places.flatten(2)).view_as(places).argmax(dim=-1, keepdim=True)
    x, y, places = (one.gather(-1, best)[..., 0] for one in (x, y, places))
    offset = offsets.flatten(2).gather(2, places.repeat_interleave(2, dim=1))
    moved: Tensor = (torch.stack([x, y], dim=2).flatten(1, 2) + offset) * stride  # (B, 4, N)
    return moved.transpose(1, 2)


def _suppress(found: Any, meta: Mapping[str, Any], settings: Mapping[str, Any], rescale: bool) -> Any:
    """Drops boxes without area, then those that a better one of the same class covers."""
    if rescale:
        found.bboxes = found.bboxes / found.bboxes.new_tensor(meta["scale_factor"]).repeat(2)
    sides = found.bboxes[:, 2:] - found.bboxes[:, :2]
    found = found[(sides > settings["min_bbox_size"]).all(dim=1)]
    if not len(found):
        return found
    rated, kept = batched_nms(found.bboxes, found.scores, found.labels, settings["nms"])
    found = found[kept]
    found.scores = rated[:, -1]
    return found[: settings["max_per_img"]]
