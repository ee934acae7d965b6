"""Operations on boxes whose results have the same shapes whatever the images show, so that tracers can follow them.

Where there is no candidate its score is `NOTHING`. Shapes: B images, N candidates of an image, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.openmmlab.heads.grid import clipped
from swin_dense.ops import torchvision_kernels

NOTHING = -1.0
"""The score of a place that holds no candidate; those of candidates lie in 0..1."""


Maps = Sequence[Tensor]
"""Levels of a neck, (B, C, H_i, W_i), finest first."""


class Candidates(NamedTuple):
    """Boxes that may show objects."""

    boxes: Tensor  # (B, N, 4) XYXY in pixels
    scores: Tensor  # (B, N)
    labels: Tensor  # (B, N) int64


def rows_of(maps: Tensor, channels: int) -> Tensor:
    """Maps (B, A * channels, H, W) with A anchors in each cell as rows (B, H * W * A, channels)."""
    cells = maps.permute(0, 2, 3, 1).flatten(1)
    return cells.view(cells.shape[0], -1, channels)


def top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best scores of (B, N), best first, and their places, (B, `count`); of fewer, N and beyond are `NOTHING`."""
    best, places = functional.pad(scores, (0, count), value=NOTHING).topk(count)
    return best, places


def taken(rows: Tensor, places: Tensor) -> Tensor:
    """Rows (B, N, C) at places (B, M), (B, M, C); places from N to N + M hold zeros."""
    padded = functional.pad(rows, (0, 0, 0, places.shape[1]))
    return padded.gather(1, places[..., None].expand(-1, -1, rows.shape[-1]))


def decoded(coder: Any, anchors: Tensor, deltas: Tensor, size: tuple[int, int]) -> Tensor:
    """What an mmdet coder makes of anchors (R, 4) and deltas (R, 4k): boxes (R, k, 4), clipped where it clips."""
    boxes = coder.decode(anchors, deltas).unflatten(-1, (-1, 4))
    return clipped(boxes, size) if coder.clip_border else boxes


def anchored(head: Any, level: int, deltas: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    """The boxes (B, M, 4) of an mmdet head on a level at places (B, M): anchors that deltas (B, 4A, H, W) move."""
    anchors = head.prior_generator.single_level_grid_priors(deltas.shape[2:], level, device=deltas.device)
    anchors = taken(anchors.expand(places.shape[0], -1, -1), places)
    moves = taken(rows_of(deltas, 4), places)
    return decoded(head.bbox_coder, anchors.flatten(0, 1), moves.flatten(0, 1), size).view_as(anchors)


def best_of_levels(levels: Iterable[Candidates], settings: Mapping[str, Any]) -> Candidates:
    """What mmdet's dense heads keep of the candidates of all levels by their `test_cfg`: large ones, uncovered ones."""
    boxes, scores, labels = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
    if (side := settings.get("min_bbox_size", -1)) >= 0:
        large = (boxes[..., 2:] - boxes[..., :2] > side).all(dim=-1)
        scores = scores.masked_fill(~large, NOTHING)
    together = Candidates(boxes, scores, labels)
    return suppressed(together, settings["nms"]["iou_threshold"], settings["max_per_img"])


def suppressed(candidates: Candidates, iou_threshold: float, count: int) -> Candidates:
    """The best `count` candidates, best first, that no better one of the same label covers.

    All images are suppressed at once: boxes of another label, and of another image, are moved where none overlap. In
    one image they lie where mmdet's `batched_nms` moves them, so that sums are rounded as there.
    """
    boxes, scores, labels = candidates
    # Behind all others come two without a size, which are always kept: tracers take it that there are two.
    there = functional.pad(scores.flatten() >= 0, (0, 2), value=True)
    rated = functional.pad(scores.flatten(), (0, 2), value=NOTHING)
    side = torch.where((scores >= 0)[..., None], boxes, 0.0).max() + 1
    across = labels * side
    down = across + torch.arange(scores.shape[0], device=scores.device)[:, None] * side
    moved = functional.pad((boxes + torch.stack([across, down, across, down], dim=-1)).flatten(0, 1), (0, 0, 0, 2))
    places = there.nonzero()[:, 0]
    kept = places[torchvision_kernels.nms(moved[places], rated[places], iou_threshold)]
    survives = torch.zeros_like(there).index_put((kept,), torch.ones_like(kept, dtype=torch.bool))[:-2]
    return best_of(Candidates(boxes, scores.where(survives.view_as(scores), NOTHING), labels), count)


def best_of(candidates: Candidates, count: int) -> Candidates:
    """The best `count` candidates, best first."""
    scores, places = top(candidates.scores, count)
    boxes, labels = taken(candidates.boxes, places), taken(candidates.labels[..., None], places)[..., 0]
    return Candidates(boxes, scores, labels)
