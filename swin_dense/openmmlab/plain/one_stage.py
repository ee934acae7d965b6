"""ATSS and RepPoints V2: the best cells of every level, their boxes, and non-maximum suppression.

Shapes: B images, K classes, P cells of a level, M of them at most in the run, D detections, (H, W) pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from swin_dense.openmmlab.heads.grid import Grid, clipped, flatten_levels, to_boxes
from swin_dense.openmmlab.heads.reppoints_v2_inference import LevelOutputs, refine_corners
from swin_dense.openmmlab.plain.boxes import (
    NOTHING,
    Candidates,
    Maps,
    best_of_levels,
    decoded,
    rows_of,
    taken,
    top,
)
from swin_dense.openmmlab.plain.operators import with_plain_operators


class DenseStage(nn.Module, ABC):
    """A dense head of which each level gives candidates."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = head
        self.settings = head.test_cfg

    def forward(self, maps: Maps, size: tuple[int, int]) -> Candidates:
        """The detections (B, D) of images of `size`."""
        return best_of_levels(self.levels(maps, size), self.settings)

    @abstractmethod
    def levels(self, maps: Maps, size: tuple[int, int]) -> Iterator[Candidates]:
        """The best candidates (B, M) of each level."""

    def best_cells(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best scores of (B, P, K), their labels and their cells, each (B, M)."""
        classes = scores.shape[-1]
        scores = scores.flatten(1)
        best, places = top(scores.where(scores > self.settings["score_thr"], NOTHING), self.settings["nms_pre"])
        return best, places % classes, places // classes


class AnchorStage(DenseStage):
    """An mmdet `ATSSHead`."""

    def levels(self, maps: Maps, size: tuple[int, int]) -> Iterator[Candidates]:
        """The best candidates (B, M) of each level; what is ranked by class is scored by centerness, too."""
        for level, (logits, deltas, centerness) in enumerate(zip(*self.head(maps), strict=True)):
            anchors = self.head.prior_generator.single_level_grid_priors(logits.shape[2:], level, device=logits.device)
            scores, labels, cells = self.best_cells(rows_of(logits, self.head.cls_out_channels).sigmoid())
            anchors = taken(anchors.expand(scores.shape[0], -1, -1), cells)
            deltas = taken(rows_of(deltas, 4), cells)
            boxes = decoded(self.head.bbox_coder, anchors.flatten(0, 1), deltas.flatten(0, 1), size)
            central = taken(rows_of(centerness, 1).sigmoid(), cells)[..., 0]
            yield Candidates(boxes.view_as(anchors), (scores * central).where(scores >= 0, NOTHING), labels)


class PointStage(DenseStage):
    """Our `RepPointsV2Head`, see `reppoints_v2_inference`."""

    def __init__(self, head: Any) -> None:
        super().__init__(with_plain_operators(head))

    def levels(self, maps: Maps, size: tuple[int, int]) -> Iterator[Candidates]:
        """The best candidates (B, M) of each level, with corners that finer levels correct."""
        outputs: list[LevelOutputs] = self.head(maps)
        for level, (predicted, stride) in enumerate(zip(outputs, self.head.point_strides, strict=True)):
            scores, labels, cells = self.best_cells(flatten_levels([predicted.class_logits]).sigmoid())
            xy = Grid.of([predicted.class_logits], [stride]).xy.expand(scores.shape[0], -1, -1)
            offsets = taken(flatten_levels([predicted.refined_offsets]), cells)
            points = offsets.view(*offsets.shape[:2], -1, 2).flip(-1) * stride + taken(xy, cells)[:, :, None]
            boxes = clipped(to_boxes(points), size)
            if level:
                source = 0 if level <= 2 else 1
                corners = outputs[source].corner_logits, outputs[source].corner_offsets
                boxes = clipped(refine_corners(boxes, *corners, self.head.point_strides[source]), size)
            yield Candidates(boxes, scores, labels)
