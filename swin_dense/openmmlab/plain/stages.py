"""How boxes and masks are found: by dense heads, or by proposals or learnt queries and heads that pool their features.

Dense heads (ATSS, RepPoints V2) take the best cells of every level, their boxes, and non-maximum suppression. The
others are those of Faster, Mask, Cascade and Sparse R-CNN.

Shapes: B images, K classes, P cells of a level or proposals, M of them at most in the run, D detections, (H, W) pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.openmmlab.heads.grid import Grid, clipped, flatten_levels, to_boxes
from swin_dense.openmmlab.heads.reppoints_v2_inference import LevelOutputs, refine_corners
from swin_dense.openmmlab.plain.boxes import (
    NOTHING,
    Candidates,
    Maps,
    anchored,
    best_of,
    best_of_levels,
    decoded,
    rows_of,
    suppressed,
    taken,
    top,
)
from swin_dense.openmmlab.plain.operators import BatchFirst, with_plain_operators
from swin_dense.ops import torchvision_kernels


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
            scores, labels, cells = self.best_cells(rows_of(logits, self.head.cls_out_channels).sigmoid())
            central = taken(rows_of(centerness, 1).sigmoid(), cells)[..., 0]
            boxes = anchored(self.head, level, deltas, cells, size)
            yield Candidates(boxes, (scores * central).where(scores >= 0, NOTHING), labels)


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


class Proposals(nn.Module):
    """An mmdet `RPNHead`, whose proposals are as many as its `test_cfg` allows in every image."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = head
        self.settings = head.test_cfg

    def forward(self, maps: Maps, size: tuple[int, int]) -> Candidates:
        """The proposals (B, P) of images of `size`; their labels mean nothing."""
        head, settings = self.head, self.settings
        levels = []
        for level, (logits, deltas) in enumerate(zip(*head(maps), strict=True)):
            logits = rows_of(logits, head.cls_out_channels)
            scores = logits.sigmoid()[..., 0] if head.use_sigmoid_cls else logits.softmax(-1)[..., 0]
            scores, places = top(scores, settings["nms_pre"])
            boxes = anchored(head, level, deltas, places, size)
            levels.append(Candidates(boxes, scores, torch.full_like(places, level)))
        return best_of_levels(levels, settings)


class TwoStages(nn.Module):
    """The proposals of an mmdet detector, and the box heads that look at them."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.proposals, self.box_stages = Proposals(network.rpn_head), BoxStages(network.roi_head)

    def forward(self, maps: Maps, size: tuple[int, int]) -> Candidates:
        """The detections (B, D) of images of `size`."""
        found: Candidates = self.box_stages(maps, self.proposals(maps, size), size)
        return found


class Pooling(nn.Module):
    """RoIAlign of each box on the level that fits its size, as mmdet's `SingleRoIExtractor` has it."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, maps: Maps, boxes: Tensor) -> Tensor:
        """Pools boxes (B, N, 4): (B * N, C, h, w)."""
        batch, count = boxes.shape[:2]
        images = torch.arange(batch, device=boxes.device, dtype=boxes.dtype)[:, None, None].expand(-1, count, -1)
        regions = torch.cat([images, boxes], dim=-1).flatten(0, 1)
        layers = list(self.extractor.roi_layers)[: len(maps)]
        fitting = self.extractor.map_roi_levels(regions, len(layers))
        pooled = maps[0].new_zeros(regions.shape[0], maps[0].shape[1], *layers[0].output_size)
        for level, layer in enumerate(layers):
            places = (fitting == level).nonzero()[:, 0]
            part = torchvision_kernels.roi_align(
                maps[level],
                regions[places],
                layer.spatial_scale,
                *layer.output_size,
                layer.sampling_ratio,
                layer.aligned,
            )
            pooled = pooled.index_put((places,), part)
        return pooled


class BoxStages(nn.Module):
    """The box heads of an mmdet `StandardRoIHead` or `CascadeRoIHead`, which differ in the number of stages."""

    def __init__(self, roi_head: Any) -> None:
        super().__init__()
        self.heads: Any = _stages(roi_head.bbox_head)
        self.poolings = nn.ModuleList(Pooling(one) for one in _stages(roi_head.bbox_roi_extractor))
        self.settings = roi_head.test_cfg

    def forward(self, maps: Maps, proposals: Candidates, size: tuple[int, int]) -> Candidates:
        """The detections (B, D) among the proposals (B, P) of images of `size`."""
        boxes, there, _ = proposals
        total = boxes.new_zeros(())
        for stage, (head, pooling) in enumerate(zip(self.heads, self.poolings, strict=True)):
            logits, deltas = head(pooling(maps, boxes))
            total = total + logits
            found = decoded(head.bbox_coder, boxes.flatten(0, 1), deltas, size)  # (B * P, K or 1, 4)
            if stage < len(self.heads) - 1:
                if not head.reg_class_agnostic:
                    label = logits[:, :-1].argmax(dim=1)
                    found = found.gather(1, label[:, None, None].expand(-1, 1, 4))
                boxes = found.view_as(boxes)
        scores = (total / len(self.heads)).softmax(-1)[:, :-1]  # (B * P, K)
        scores = scores.where((scores > self.settings["score_thr"]) & (there.flatten()[:, None] >= 0), NOTHING)
        labels = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
        boxes = found.expand(-1, scores.shape[1], -1)
        parts = (one.view(*there.shape, *one.shape[1:]).flatten(1, 2) for one in (boxes, scores, labels))
        return suppressed(Candidates(*parts), self.settings["nms"]["iou_threshold"], self.settings["max_per_img"])


class MaskStages(nn.Module):
    """The mask heads of the same; what several stages find is averaged."""

    def __init__(self, roi_head: Any) -> None:
        super().__init__()
        self.heads: Any = _stages(roi_head.mask_head)
        self.poolings = nn.ModuleList(Pooling(one) for one in _stages(roi_head.mask_roi_extractor))

    def forward(self, maps: Maps, boxes: Tensor, labels: Tensor) -> Tensor:
        """Probabilities (B, D, h, w) of the cells of boxes (B, D, 4) with labels (B, D) to be of the object."""
        masks = []
        for head, pooling in zip(self.heads, self.poolings, strict=True):
            logits = head(pooling(maps, boxes))
            if not head.class_agnostic:
                places = labels.flatten()[:, None, None, None].expand(-1, 1, *logits.shape[2:])
                logits = logits.gather(1, places)
            masks.append(logits.sigmoid())
        mean = torch.stack(masks).mean(dim=0)
        return mean.view(*labels.shape, *mean.shape[2:])


def _stages(parts: nn.Module) -> nn.ModuleList:
    return parts if isinstance(parts, nn.ModuleList) else nn.ModuleList([parts])


class QueryStages(nn.Module):
    """An mmdet `EmbeddingRPNHead`, and the box heads of its `SparseRoIHead`; nothing is suppressed."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.boxes, self.queries = network.rpn_head.init_proposal_bboxes, network.rpn_head.init_proposal_features
        heads: Any = with_plain_operators(network.roi_head.bbox_head)
        self.heads = heads
        for head in heads:
            head.attention_norm = BatchFirst(head.attention_norm)
        self.poolings = nn.ModuleList(Pooling(one) for one in network.roi_head.bbox_roi_extractor)
        self.count = network.roi_head.test_cfg["max_per_img"]

    def forward(self, maps: Maps, size: tuple[int, int]) -> Candidates:
        """The detections (B, D) of images of `size`."""
        batch, (height, width) = maps[0].shape[0], size
        centre, sides = self.boxes.weight.split(2, dim=-1)
        corners = torch.cat([centre - 0.5 * sides, centre + 0.5 * sides], dim=-1)
        boxes = torch.stack([corners[:, 0::2] * width, corners[:, 1::2] * height], dim=-1).flatten(1)
        boxes, queries = (one.repeat(batch, 1, 1) for one in (boxes, self.queries.weight))
        for head, pooling in zip(self.heads, self.poolings, strict=True):
            logits, deltas, queries, _ = head(pooling(maps, boxes), queries)
            boxes = decoded(head.bbox_coder, boxes.flatten(0, 1), deltas.flatten(0, 1), size).view_as(boxes)
        scores = logits.sigmoid() if head.loss_cls.use_sigmoid else logits.softmax(-1)[..., :-1]
        labels = torch.arange(scores.shape[2], device=scores.device).expand_as(scores).flatten(1)
        each = boxes[:, :, None].expand(-1, -1, scores.shape[2], -1).flatten(1, 2)
        return best_of(Candidates(each, scores.flatten(1), labels), self.count)
