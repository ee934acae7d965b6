"""What a detector is to learn from a batch, computed like mmdet computes it, without waiting for the device.

mmdet asks the device about every object: whether its best box is good enough, which boxes are as good, and for its
mask, which it carries to the CPU and back. On a GPU each question waits until all that was begun is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.ops import roi_align
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules.assigners import AssignResult, MaxIoUAssigner
from torch import Tensor, nn
from torch.nn.modules.utils import _pair


def without_waits(network: nn.Module) -> None:
    """Lets a detector's assigners and mask heads find the same targets by the functions of this file."""
    for module in network.modules():
        for held in vars(module).values():
            for part in held if isinstance(held, list) else [held]:
                if type(part) is MaxIoUAssigner:
                    part.__class__ = _Assigner
        if isinstance(module, FCNMaskHead) and type(module).get_targets is FCNMaskHead.get_targets:
            module.get_targets = mask_targets


class _Assigner(MaxIoUAssigner):  # type: ignore[misc]  # mmdet has no types
    """mmdet's assigner by the IoU, whose loop over objects is one comparison."""

    def assign_wrt_overlaps(self, overlaps: Tensor, gt_labels: Tensor) -> AssignResult:
        """The object of each of N boxes, from the IoU (K, N): its number from 1 on, 0 for none, -1 for neither."""
        if not overlaps.numel() or not self.gt_max_assign_all:
            return super().assign_wrt_overlaps(overlaps, gt_labels)
        best, objects = overlaps.max(dim=0)
        low, high = self.neg_iou_thr if isinstance(self.neg_iou_thr, tuple) else (0.0, self.neg_iou_thr)
        found = torch.where((best >= low) & (best < high), 0, -1)
        found = torch.where(best >= self.pos_iou_thr, objects + 1, found)
        if self.match_low_quality:  # the last object whose best boxes these are
            bests, numbers = overlaps.amax(dim=1), torch.arange(1, len(overlaps) + 1, device=overlaps.device)
            bests = bests.masked_fill(bests < self.min_pos_iou, torch.inf)
            last = torch.where(overlaps == bests[:, None], numbers[:, None].int(), 0).amax(dim=0)
            found = torch.where(last > 0, last, found)
        labels = torch.where(found > 0, gt_labels[(found - 1).clamp(min=0)], -1)
        return AssignResult(len(overlaps), found, best, labels=labels)


def mask_targets(sampling_results: Sequence[Any], batch_gt_instances: Sequence[Any], rcnn_train_cfg: Any) -> Tensor:
    """The part of its object's mask inside each positive box, (P, h, w): `FCNMaskHead.get_targets` of mmdet."""
    size = _pair(rcnn_train_cfg.mask_size)
    found = []
    for sampled, instances in zip(sampling_results, batch_gt_instances, strict=True):
        boxes, objects, bitmaps = sampled.pos_priors, sampled.pos_assigned_gt_inds, instances.masks
        if not len(boxes):
            found.append(boxes.new_zeros(0, 1, *size))
            continue
        masks = torch.from_numpy(bitmaps.masks).to(boxes.device, non_blocking=True)
        if len(masks) > len(boxes):
            masks, objects = masks[objects], torch.arange(len(boxes), device=boxes.device)
        columns, rows = boxes[:, 0::2].clamp(0, bitmaps.width), boxes[:, 1::2].clamp(0, bitmaps.height)
        regions = torch.stack([objects.to(boxes), columns[:, 0], rows[:, 0], columns[:, 1], rows[:, 1]], dim=1)
        found.append(roi_align(masks[:, None].to(boxes), regions, size, 1.0, 0, "avg", True))
    targets = torch.cat(found)[:, 0]
    return targets if rcnn_train_cfg.get("soft_mask_target", False) else (targets >= 0.5).to(targets)
