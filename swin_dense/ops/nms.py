"""Non-maximum suppression: hard, soft, and with the groups of suppressed boxes.

All boxes are (x1, y1, x2, y2). With `offset` 1 a box is `x2 - x1 + 1` wide, as in detectors that count pixels; with 0
it is `x2 - x1` wide. Boxes are (N, 4) in pixels, scores (N,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from swin_dense.ops import full_precision, torchvision_kernels

NAIVE, LINEAR, GAUSSIAN = 0, 1, 2


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression: indices (K,) of the kept boxes, best first; of equal scores the earlier wins."""
    boxes, scores = full_precision(boxes, scores)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    kept: Tensor = torchvision_kernels.nms(boxes, scores, iou_threshold)
    return kept


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al. 2017): overlapped boxes lose score instead of being dropped.

    The best remaining box is taken in each step and every other score is multiplied by a weight of their IoU:

        naive:     0 if IoU >= iou_threshold else 1
        linear:    1 - IoU if IoU >= iou_threshold else 1        (eq. 2 of the paper)
        gaussian:  exp(-IoU^2 / sigma)                           (eq. 3 of the paper)

    Boxes whose score falls below `min_score` are dropped. Of equal scores the earliest box is taken first. The first K
    rows of the buffer `dets` (N, 5) are overwritten with (x1, y1, x2, y2, decayed score), best first. The result is
    (K,) int64 indices of the kept boxes, in the same order.
    """
    boxes, scores = full_precision(boxes, scores)
    remaining = torch.arange(len(boxes), device=boxes.device)
    kept: list[Tensor] = []
    while remaining.numel():
        best = scores.argmax()
        dets[len(kept)] = torch.cat([boxes[remaining[best]], scores[best, None]])
        kept.append(remaining[best])
        iou = _iou(boxes[remaining[best]], boxes[remaining], offset)
        scores = scores * _decay(iou, iou_threshold, sigma, method)
        survives = scores >= min_score
        survives[best] = False
        remaining, scores = remaining[survives], scores[survives]
    return torch.stack(kept) if kept else remaining


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Greedy suppression of boxes with scores (N, 5) that keeps record of which box suppressed which.

    Unlike in `nms`, an IoU equal to the threshold suppresses too. There is one list per kept box, best first: its
    index, then the indices of the boxes that it suppressed, best first.
    """
    (dets,) = full_precision(dets)
    boxes, scores = dets[:, :4], dets[:, 4]
    remaining = scores.argsort(descending=True, stable=True)
    groups: list[list[int]] = []
    while remaining.numel():
        matched = _iou(boxes[remaining[0]], boxes[remaining], offset=0) >= iou_threshold
        matched[0] = True
        groups.append(remaining[matched].tolist())
        remaining = remaining[~matched]
    return groups


def _decay(iou: Tensor, iou_threshold: float, sigma: float, method: int) -> Tensor:
    if method == GAUSSIAN:
        return torch.exp(-(iou**2) / sigma)
    overlapped = 1 - iou if method == LINEAR else torch.zeros_like(iou)
    return torch.where(iou >= iou_threshold, overlapped, 1.0)


def _iou(box: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """IoU of one box (4,) with each of (N, 4); boxes without area overlap nothing."""
    top_left = torch.maximum(box[:2], boxes[:, :2])
    bottom_right = torch.minimum(box[2:], boxes[:, 2:])
    intersection = (bottom_right - top_left + offset).clamp(min=0).prod(dim=1)
    area = (box[2:] - box[:2] + offset).prod()
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(dim=1)
    return torch.where(intersection > 0, intersection / (area + areas - intersection), 0.0)
