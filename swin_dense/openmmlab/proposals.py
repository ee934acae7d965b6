"""The first stage of two-stage detectors in training: losses and proposals of all images at once, as mmdet finds them.

mmdet goes image by image and level by level, computes the losses of all anchors, of which 256 in an image count, and
asks the device several times about each image: half of the operations of a step of Mask R-CNN. Here the convolutions
over whole maps only propose, without gradients; what is learnt comes from the 3x3 cells around the anchors that count,
so that a convolution has no gradient of whole maps, nearly all of which would be zeros. Shapes: B images, N anchors of
all levels, K objects of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.models import dense_heads
from mmdet.models.losses import (
    BalancedL1Loss,
    CIoULoss,
    CrossEntropyLoss,
    DIoULoss,
    FocalLoss,
    GIoULoss,
    IoULoss,
    L1Loss,
    SmoothL1Loss,
)
from mmdet.models.task_modules import AnchorGenerator
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmengine.structures import InstanceData
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from swin_dense.backbones.rows import is_plain, runs_alone
from swin_dense.openmmlab.plain.boxes import Maps, rows_of
from swin_dense.openmmlab.sampling import Assigner, Sampler
from swin_dense.ops.nms import nms

LOSSES = (
    CrossEntropyLoss,
    FocalLoss,
    L1Loss,
    SmoothL1Loss,
    BalancedL1Loss,
    IoULoss,
    GIoULoss,
    DIoULoss,
    CIoULoss,
)
"""Losses to which each anchor adds a term of its own: those that do not count add nothing."""


class RPNHead(dense_heads.RPNHead):  # type: ignore[misc]  # mmdet has no types
    """mmdet's head of this name, which learns and proposes for all images at once; in prediction it is mmdet's."""

    def loss_and_predict(
        self, x: Maps, batch_data_samples: Sequence[Any], proposal_cfg: Any = None
    ) -> tuple[dict[str, list[Tensor]], list[Any]]:
        """The losses of maps (B, C, H_i, W_i), and the proposals of each image, best first."""
        settings = proposal_cfg or self.test_cfg
        if not self._is_usual(settings):
            losses, proposals = super().loss_and_predict(x, batch_data_samples, proposal_cfg)
            return losses, proposals
        anchors = self.prior_generator.grid_priors([one.shape[-2:] for one in x], device=x[0].device)
        # What is learnt comes first: what autocast has cast without gradients, older versions of PyTorch use again.
        losses = self._losses(x, torch.cat(anchors), batch_data_samples)
        with torch.no_grad():
            logits, deltas = self(x)
            return losses, self._proposals(logits, deltas, anchors, batch_data_samples, settings)

    def _is_usual(self, settings: Any) -> bool:
        """Whether the parts are those whose results are known here, as in all official models."""
        return (
            type(self.assigner) is Assigner
            and self.assigner.is_usual
            and type(self.sampler) is Sampler  # asked to add objects, mmdet's takes them for anchors, and fails
            and type(self.prior_generator) is AnchorGenerator
            and not self.prior_generator.use_box_type
            and all(type(one) in LOSSES and one.reduction == "mean" for one in (self.loss_cls, self.loss_bbox))
            and type(self.bbox_coder) is DeltaXYWHBBoxCoder
            and not self.bbox_coder.use_box_type
            and settings.nms.keys() <= {"type", "iou_threshold"}
            and settings.nms.get("type", "nms") == "nms"
            and runs_alone(self)
            and all(is_plain(one) for one in (self.rpn_conv, self.rpn_cls, self.rpn_reg))
        )

    def _losses(self, maps: Maps, anchors: Tensor, samples: Sequence[Any]) -> dict[str, list[Tensor]]:
        """The losses of the anchors that were sampled."""
        found = self._assigned([one.shape[-2:] for one in maps], anchors, samples)
        sampled = self.sampler.sample_rows(found)
        rows = [torch.cat(one) for one in zip(*sampled, strict=True)]  # of positives and of negatives, in (B * N)
        positive, all_rows = rows[0], torch.cat(rows)
        factor = sum(max(1, len(one)) for both in sampled for one in both)
        classes = torch.full_like(all_rows, self.num_classes)
        classes[: len(positive)] = 0
        weights = anchors.new_ones(len(all_rows))
        if self.train_cfg["pos_weight"] > 0:
            weights[: len(positive)] = self.train_cfg["pos_weight"]
        rated, moved = self._outputs(maps, all_rows)
        loss_cls = self.loss_cls(rated, classes, weights, avg_factor=factor)

        boxes = torch.cat([one.gt_instances.bboxes for one in samples])
        counts = [len(one.gt_instances) for one in samples]
        first = np.cumsum([0, *counts[:-1]]).tolist()
        objects = [found.flatten()[one] + (start - 1) for (one, _), start in zip(sampled, first, strict=True)]
        wanted, priors = boxes[torch.cat(objects)], anchors[positive % len(anchors)]
        moved = moved[: len(positive)]
        if self.reg_decoded_bbox:
            moved = self.bbox_coder.decode(priors, moved)
        else:
            wanted = self.bbox_coder.encode(priors, wanted)
        loss_bbox = self.loss_bbox(moved, wanted, torch.ones_like(wanted), avg_factor=factor)
        return {"loss_rpn_cls": [loss_cls], "loss_rpn_bbox": [loss_bbox]}

    def _outputs(self, maps: Maps, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (P, C) and deltas (P, 4) of P anchors, given as indices in (B * N)."""
        each = self.num_base_priors
        patches = _neighbourhoods(maps, rows // each).flatten(1)
        weight = self.rpn_conv.weight.permute(0, 2, 3, 1).flatten(1)
        hidden = functional.linear(patches, weight, self.rpn_conv.bias).relu()
        chosen, prior, found = torch.arange(len(rows), device=rows.device), rows % each, []
        for layer in (self.rpn_cls, self.rpn_reg):
            of_cells = functional.linear(hidden, layer.weight.flatten(1), layer.bias)
            found.append(of_cells.view(len(rows), each, layer.out_channels // each)[chosen, prior])
        return found[0], found[1]

    def _assigned(self, sizes: Sequence[Sequence[int]], anchors: Tensor, samples: Sequence[Any]) -> Tensor:
        """The object of each anchor (B, N): its number in the image from 1 on, 0 for none, -1 for neither."""
        valid = torch.from_numpy(self._valid(sizes, samples))
        everywhere = bool(valid.all())
        valid = valid.to(anchors.device, non_blocking=True)
        border, found = self.train_cfg["allowed_border"], []
        for i, sample in enumerate(samples):
            inside = None if everywhere else valid[i]
            if border >= 0:
                height, width = sample.metainfo["img_shape"][:2]
                left, top, right, bottom = anchors.unbind(1)
                inside = (left >= -border) & (top >= -border) & (right < width + border) & (bottom < height + border)
                inside &= valid[i]
            numbers = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
            if len(boxes := sample.gt_instances.bboxes):
                overlaps = self.assigner.iou_calculator(boxes, anchors)
                if inside is not None:
                    overlaps = overlaps.masked_fill(~inside, -1.0)
                numbers = self.assigner.numbers(overlaps)[1]
            found.append(numbers if inside is None else numbers.masked_fill(~inside, -1))
        return torch.stack(found)

    def _valid(self, sizes: Sequence[Sequence[int]], samples: Sequence[Any]) -> NDArray[np.bool_]:
        """Which anchors (B, N) stand on an image, or on what it would be padded by alone."""
        generator, levels = self.prior_generator, []
        for (height, width), (x, y), each in zip(sizes, generator.strides, generator.num_base_priors, strict=True):
            flags = np.zeros((len(samples), height, width, each), dtype=bool)
            for there, sample in zip(flags, samples, strict=True):
                padded_height, padded_width = sample.metainfo["pad_shape"][:2]
                there[: -(-padded_height // y), : -(-padded_width // x)] = True
            levels.append(flags.reshape(len(samples), -1))
        return np.concatenate(levels, axis=1)

    def _proposals(
        self, logits: Maps, deltas: Maps, anchors: Sequence[Tensor], samples: Sequence[Any], settings: Any
    ) -> list[Any]:
        """The proposals of each image, of which no two of a level overlap by more than the threshold."""
        parts = []
        for level, (rated, moved, priors) in enumerate(zip(logits, deltas, anchors, strict=True)):
            scores = rows_of(rated, self.cls_out_channels)
            scores = scores.sigmoid()[..., 0] if self.use_sigmoid_cls else scores.softmax(-1)[..., 0]
            moved, priors = rows_of(moved, 4), priors.expand(len(samples), -1, -1)
            if 0 < settings.get("nms_pre", -1) < scores.shape[1]:
                scores, places = scores.sort(descending=True)  # which orders equal ones as it does for mmdet
                scores, places = scores[:, : settings.nms_pre], places[:, : settings.nms_pre, None].expand(-1, -1, 4)
                moved, priors = moved.gather(1, places), priors.gather(1, places)
            parts.append((priors, moved, scores, torch.full_like(scores, level)))
        priors, moved, scores, levels = (torch.cat(one, dim=1) for one in zip(*parts, strict=True))
        boxes = self.bbox_coder.decode(priors.flatten(0, 1), moved.flatten(0, 1)).view_as(priors)
        if self.bbox_coder.clip_border:
            heights, widths = zip(*(one.metainfo["img_shape"][:2] for one in samples), strict=True)
            ends = torch.tensor([widths, heights, widths, heights], dtype=boxes.dtype).T[:, None]
            boxes = torch.minimum(boxes.clamp(min=0), ends.to(boxes.device, non_blocking=True))
        there = torch.ones_like(scores, dtype=torch.bool)
        if (side := settings.get("min_bbox_size", -1)) >= 0:
            there = (boxes[..., 2:] - boxes[..., :2] > side).all(dim=-1)
        # Levels are moved apart as far as mmdet moves them, so that sums are rounded as there.
        across = levels * (boxes.masked_fill(~there[..., None], 0.0).amax(dim=(1, 2)) + 1)[:, None]
        counts, places = there.sum(dim=1).tolist(), there.flatten().nonzero()[:, 0]
        parts = [one.flatten(0, 1)[places].split(counts) for one in (boxes, boxes + across[..., None], scores)]
        found = []
        for boxes, apart, scores in zip(*parts, strict=True):
            kept = nms(apart, scores, settings.nms["iou_threshold"], 0)[: settings.max_per_img]
            found.append(InstanceData(bboxes=boxes[kept], scores=scores[kept], labels=torch.zeros_like(kept)))
        return found


def _neighbourhoods(maps: Maps, cells: Tensor) -> Tensor:
    """The 3x3 cells around P cells, (P, 3, 3, C), zero outside of their map.

    Cells (P,) are indices in (B, M), the M cells of all maps.
    """
    sizes = np.array([one.shape[-2:] for one in maps])
    counts = sizes.prod(axis=1)
    table = np.stack([np.cumsum(counts) - counts, *sizes.T])
    starts, heights, widths = torch.from_numpy(table).to(cells.device, non_blocking=True)
    places, order = (cells % counts.sum()).sort()  # level by level
    images = (cells // counts.sum())[order]
    levels = torch.bucketize(places, starts, right=True) - 1
    of_levels = (levels == torch.arange(len(maps), device=cells.device)[:, None]).sum(dim=1).tolist()
    height, width = heights[levels, None, None], widths[levels, None, None]
    near, places = torch.arange(-1, 2, device=cells.device), (places - starts[levels])[:, None, None]
    y, x = places // width + near[:, None], places % width + near
    outside = (y < 0) | (y >= height) | (x < 0) | (x >= width)
    y, x = y.clamp(min=0).minimum(height - 1), x.clamp(min=0).minimum(width - 1)
    split = (one.split(of_levels) for one in (images[:, None, None], y, x))
    patches = [one[image, :, row, column] for one, image, row, column in zip(maps, *split, strict=True)]
    return torch.cat(patches).masked_fill(outside[..., None], 0.0)[order.argsort()]
