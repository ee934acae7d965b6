"""Which object each box is to find, and which boxes a detector learns from: as mmdet has it, without waiting.

Shapes: N boxes, K objects of an image.
"""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.task_modules import assigners
from mmdet.models.task_modules.assigners import AssignResult, BboxOverlaps2D, MaxIoUAssigner
from mmdet.models.task_modules.samplers import RandomSampler
from torch import Tensor


class Assigner(MaxIoUAssigner):  # type: ignore[misc]  # mmdet has no types
    """mmdet's assigner by the IoU, whose loop over objects is one comparison."""

    @property
    def is_usual(self) -> bool:
        """Whether the objects follow from the IoU alone, by `numbers`."""
        return bool(
            self._is_known
            and type(self.iou_calculator) is BboxOverlaps2D
            and self.perm_repeat_gt_cfg is None
            and self.gpu_assign_thr <= 0
            and self.ignore_iof_thr <= 0
        )

    @property
    def _is_known(self) -> bool:
        """Whether `numbers` knows the options; of a threshold of another type mmdet makes no negative boxes."""
        return bool(self.gt_max_assign_all and isinstance(self.neg_iou_thr, float | tuple))

    def assign_wrt_overlaps(self, overlaps: Tensor, gt_labels: Tensor) -> AssignResult:
        """The object of each box, from the IoU (K, N): its number from 1 on, 0 for none, -1 for neither."""
        if not overlaps.numel() or not self._is_known:
            return super().assign_wrt_overlaps(overlaps, gt_labels)
        best, found = self.numbers(overlaps)
        labels = torch.where(found > 0, gt_labels[(found - 1).clamp(min=0)], -1)
        return AssignResult(len(overlaps), found, best, labels=labels)

    def numbers(self, overlaps: Tensor) -> tuple[Tensor, Tensor]:
        """The largest IoU of each box (..., N), of those with K >= 1 objects (..., K, N), and its object's number."""
        best, objects = overlaps.max(dim=-2)
        low, high = self.neg_iou_thr if isinstance(self.neg_iou_thr, tuple) else (0.0, self.neg_iou_thr)
        found = torch.where((best >= low) & (best < high), 0, -1)
        found = torch.where(best >= self.pos_iou_thr, objects + 1, found)
        if self.match_low_quality:  # the last object whose best boxes these are
            bests = overlaps.amax(dim=-1, keepdim=True)
            bests = bests.masked_fill(bests < self.min_pos_iou, torch.inf)
            numbers = torch.arange(1, overlaps.shape[-2] + 1, dtype=torch.int32, device=overlaps.device)[:, None]
            last = torch.where(overlaps == bests, numbers, 0).amax(dim=-2)
            found = torch.where(last > 0, last, found)
        return best, found


class PointAssigner(assigners.PointAssigner):  # type: ignore[misc]  # as above
    """mmdet's, which numbers points on the CPU and indexes the numbers on the GPU: RepPoints cannot learn there."""

    def assign(self, pred_instances: Any, *args: Any, **options: Any) -> AssignResult:
        """The object of each point, all of it where the points are."""
        with pred_instances.priors.device:
            return super().assign(pred_instances, *args, **options)


class Sampler(RandomSampler):  # type: ignore[misc]  # as above
    """mmdet's random sampler, which draws where the boxes are; on the CPU it draws the same ones."""

    def random_choice(self, gallery: Tensor, num: int) -> Tensor:
        """Some of the boxes (N,), all equally likely."""
        return gallery[torch.randperm(len(gallery), device=gallery.device)[:num]]

    def sample_rows(self, found: Tensor) -> list[list[Tensor]]:
        """Samples the boxes of B images, (B, N), by the number of their object, 0 for none, -1 for neither.

        Returns:
            For each image the boxes with an object and those without one, as indices of all B * N.
        """
        kinds = torch.stack([found > 0, found == 0])
        counts = kinds.sum(dim=2).tolist()
        galleries = [kind.flatten().nonzero()[:, 0].split(count) for kind, count in zip(kinds, counts, strict=True)]
        sampled = []
        for positive, negative in zip(*galleries, strict=True):
            positive = self._some(positive, int(self.num * self.pos_fraction))
            most = self.num - len(positive)
            if self.neg_pos_ub >= 0:
                most = min(most, int(self.neg_pos_ub * max(1, len(positive))))
            sampled.append([positive, self._some(negative, most)])
        return sampled

    def _some(self, gallery: Tensor, most: int) -> Tensor:
        return self.random_choice(gallery, most) if len(gallery) > most else gallery
