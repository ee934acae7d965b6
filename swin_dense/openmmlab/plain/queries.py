"""Sparse R-CNN: learnt proposals, which dynamic heads refine; nothing is suppressed.

Shapes: B images, P proposals and D detections of an image, K classes, (H, W) pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from swin_dense.openmmlab.plain.boxes import Candidates, Maps, best_of, decoded
from swin_dense.openmmlab.plain.operators import BatchFirst, with_plain_operators
from swin_dense.openmmlab.plain.two_stage import Pooling


class QueryStages(nn.Module):
    """An mmdet `EmbeddingRPNHead` and the box heads of its `SparseRoIHead`."""

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
