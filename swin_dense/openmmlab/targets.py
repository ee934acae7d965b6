"""Puts our parts of detectors in the place of mmdet's when a training begins, and masks to learn: all on the device.

mmdet asks the device about every object: whether its best box is good enough, which boxes are as good, and for its
mask, which it carries to the CPU and back. On a GPU each question waits until all that was begun is done, and while the
CPU copies masks or draws a permutation of all anchors, the GPU has nothing to do.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from mmcv.ops import roi_align
from mmdet.models import dense_heads, roi_heads
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules import assigners
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmdet.structures.mask import BitmapMasks
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.utils import _pair

from swin_dense.openmmlab.proposals import RPNHead
from swin_dense.openmmlab.regions import StandardRoIHead, box_targets
from swin_dense.openmmlab.sampling import Assigner, PointAssigner, Sampler


def without_waits(network: Any) -> None:
    """Lets a detector's parts find the same targets, losses and proposals by ours."""
    ours = {
        assigners.MaxIoUAssigner: Assigner,
        assigners.PointAssigner: PointAssigner,
        RandomSampler: Sampler,
        dense_heads.RPNHead: RPNHead,
        roi_heads.StandardRoIHead: StandardRoIHead,
    }
    for module in network.modules():
        for held in [module, *vars(module).values()]:
            for part in held if isinstance(held, list) else [held]:
                if type(part) in ours:
                    part.__class__ = ours[type(part)]
        if _keeps(module, FCNMaskHead, "get_targets"):
            module.get_targets = mask_targets
        elif _keeps(module, BBoxHead, "get_targets", "_get_targets_single"):
            module.get_targets = partial(box_targets, module)


def _keeps(module: Any, kind: type, *methods: str) -> bool:
    """Whether a module is of a kind and has these methods from it."""
    return isinstance(module, kind) and all(getattr(type(module), name) is getattr(kind, name) for name in methods)


class TrainingSample(DetDataSample):  # type: ignore[misc]  # mmdet has no types
    """mmdet's sample, of which a deep copy shares the tensors: mmdet makes one to exchange the labels alone."""

    def __deepcopy__(self, memo: dict[int, Any]) -> TrainingSample:
        copied = copy.copy(self)
        copied.gt_instances = copy.copy(self.gt_instances)
        return copied


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
        boxes, objects, bitmaps = get_box_tensor(sampled.pos_priors), sampled.pos_assigned_gt_inds, instances.masks
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
