"""What a detector is to learn from a batch, computed like mmdet computes it, without waiting for the device.

mmdet asks the device about every object: whether its best box is good enough, which boxes are as good, and for its
mask, which it carries to the CPU and back. On a GPU each question waits until all that was begun is done, and while the
CPU copies masks or draws a permutation of all anchors, the GPU has nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.ops import roi_align
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules.assigners import AssignResult, MaxIoUAssigner
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.structures.mask import BitmapMasks
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.utils import _pair


def without_waits(network: nn.Module) -> None:
    """Lets a detector's assigners, samplers and mask heads find the same targets by the functions of this file."""
    ours = {MaxIoUAssigner: _Assigner, RandomSampler: _Sampler}
    for module in network.modules():
        for held in vars(module).values():
            for part in held if isinstance(held, list) else [held]:
                if type(part) in ours:
                    part.__class__ = ours[type(part)]
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


class _Sampler(RandomSampler):  # type: ignore[misc]  # as above
    """mmdet's random sampler, which draws where the boxes are; on the CPU it draws the same ones."""

    def random_choice(self, gallery: Tensor, num: int) -> Tensor:
        """Some of the boxes (N,), all equally likely."""
        return gallery[torch.randperm(len(gallery), device=gallery.device)[:num]]


class Bitmaps(BitmapMasks):  # type: ignore[misc]  # as above
    """mmdet's masks (N, H, W) of objects, which are neither copied nor padded before somebody reads `masks`.

    Attributes:
        inside: The masks (N, h, w) without the zeros below and to the right.
    """

    def __init__(self, inside: NDArray[np.uint8], height: int, width: int) -> None:
        """Takes masks of a smaller size, or of the same."""
        self.inside, self.height, self.width = inside, height, width

    @property
    def masks(self) -> NDArray[np.uint8]:
        """The whole masks."""
        _, height, width = self.inside.shape
        return np.pad(self.inside, ((0, 0), (0, self.height - height), (0, self.width - width)))

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> BitmapMasks:
        """Masks of a larger size."""
        if pad_val != 0:
            return BitmapMasks(self.masks, self.height, self.width).pad(out_shape, pad_val)
        return Bitmaps(self.inside, *out_shape)

    def __len__(self) -> int:
        return len(self.inside)

    def __deepcopy__(self, memo: dict[int, Any]) -> Bitmaps:
        return self  # mmdet copies samples to change their labels


def mask_targets(sampling_results: Sequence[Any], batch_gt_instances: Sequence[Any], rcnn_train_cfg: Any) -> Tensor:
    """The part of its object's mask inside each positive box, (P, h, w): `FCNMaskHead.get_targets` of mmdet."""
    size = _pair(rcnn_train_cfg.mask_size)
    found = []
    for sampled, instances in zip(sampling_results, batch_gt_instances, strict=True):
        boxes, objects, bitmaps = sampled.pos_priors, sampled.pos_assigned_gt_inds, instances.masks
        if not len(boxes):
            found.append(boxes.new_zeros(0, 1, *size))
            continue
        inside = bitmaps.inside if isinstance(bitmaps, Bitmaps) else bitmaps.masks
        inside = torch.from_numpy(inside).to(boxes.device, non_blocking=True)
        if len(inside) > len(boxes):
            inside, objects = inside[objects], torch.arange(len(boxes), device=boxes.device)
        masks = boxes.new_zeros(len(inside), 1, bitmaps.height, bitmaps.width)
        masks[:, 0, : inside.shape[1], : inside.shape[2]] = inside
        columns, rows = boxes[:, 0::2].clamp(0, bitmaps.width), boxes[:, 1::2].clamp(0, bitmaps.height)
        regions = torch.stack([objects.to(boxes), columns[:, 0], rows[:, 0], columns[:, 1], rows[:, 1]], dim=1)
        found.append(roi_align(masks, regions, size, 1.0, 0, "avg", True))
    targets = torch.cat(found)[:, 0]
    return targets if rcnn_train_cfg.get("soft_mask_target", False) else (targets >= 0.5).to(targets)
