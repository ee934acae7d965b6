"""The second stage of two-stage detectors in training: which proposals it learns from, and what, of all images at once.

Shapes: B images, N boxes of an image at most, K objects of an image at most, P positive boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.models import roi_heads
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from swin_dense.openmmlab.sampling import Assigner, Sampler


class StandardRoIHead(roi_heads.StandardRoIHead):  # type: ignore[misc]  # mmdet has no types
    """mmdet's head of this name, which samples the boxes that it learns from for all images at once."""

    def loss(self, x: Sequence[Tensor], rpn_results_list: Sequence[Any], batch_data_samples: Sequence[Any]) -> Any:
        """The losses of maps (B, C, H_i, W_i) and the proposals of each image."""
        assigner, sampler = self.bbox_assigner, self.bbox_sampler
        is_usual = type(assigner) is Assigner and assigner.is_usual and type(sampler) is Sampler
        if not (is_usual and any(len(one) for one in rpn_results_list)):
            return super().loss(x, rpn_results_list, batch_data_samples)
        instances = [one.gt_instances for one in batch_data_samples]
        proposals = [get_box_tensor(one.bboxes) for one in rpn_results_list]
        sampled = sample_boxes(assigner, sampler, proposals, instances)
        found = self.bbox_loss(x, sampled)
        losses = dict(found["loss_bbox"])
        if self.with_mask:
            losses.update(self.mask_loss(x, sampled, found["bbox_feats"], instances)["loss_mask"])
        return losses


class SampledBoxes(SamplingResult):  # type: ignore[misc]  # as above
    """The boxes of one image that were sampled, those of objects first."""

    priors: Tensor = None  # type: ignore[assignment]  # a property of mmdet's, which copies

    def __init__(
        self,
        num: int,
        num_gts: int,
        indices: Tensor,
        priors: Tensor,
        is_object: Tensor,
        objects: Tensor,
        boxes: Tensor,
        labels: Tensor,
    ) -> None:
        """Takes all boxes, `num` of objects, of an image with `num_gts` of them.

        Of each box: its place among the objects and proposals, is it an object itself, its object, its box and label.
        """
        self.num_gts, self.avg_factor_with_neg = num_gts, True
        self.pos_inds, self.neg_inds = indices[:num], indices[num:]
        self.priors, self.pos_priors, self.neg_priors = priors, priors[:num], priors[num:]
        self.pos_is_gt, self.pos_assigned_gt_inds = is_object[:num], objects[:num]
        self.pos_gt_bboxes, self.pos_gt_labels = boxes[:num], labels[:num]
        self.num_pos, self.num_neg = max(1, num), max(1, len(priors) - num)
        self.avg_factor = self.num_pos + self.num_neg


def sample_boxes(
    assigner: Assigner, sampler: Sampler, proposals: Sequence[Tensor], instances: Sequence[Any]
) -> list[SampledBoxes]:
    """Assigns the proposals (N, 4) of each image to its objects, and samples some; objects may be proposals, too."""
    device, object_count = proposals[0].device, max(1, *(len(one) for one in instances))
    added = [len(one) if sampler.add_gt_as_proposals else 0 for one in instances]
    priors = pad_sequence(
        [torch.cat([one.bboxes[:count], boxes]) for one, count, boxes in zip(instances, added, proposals, strict=True)],
        batch_first=True,
    )
    batch, box_count = priors.shape[:2]
    boxes = priors.new_zeros(batch, object_count, 4)
    labels = torch.zeros(batch, object_count, dtype=torch.int64, device=device)
    # What is there, and what is an object: known on the CPU, and carried over without waiting.
    is_proposal, is_added = np.zeros((2, batch, box_count), dtype=bool)
    is_there = np.zeros((batch, object_count, 1), dtype=bool)
    for i, (one, count) in enumerate(zip(instances, added, strict=True)):
        boxes[i, : len(one)], labels[i, : len(one)] = one.bboxes, one.labels
        is_added[i, :count], is_proposal[i, count : count + len(proposals[i])] = True, True
        is_there[i, : len(one)] = True
    proposed, object_itself, there = (
        torch.from_numpy(one).to(device, non_blocking=True) for one in (is_proposal, is_added, is_there)
    )
    overlaps = assigner.iou_calculator(boxes, priors).masked_fill(~(there & proposed[:, None]), -1.0)
    numbers = assigner.numbers(overlaps)[1]
    numbers = torch.where(proposed & ~there[:, :1, 0], 0, numbers)  # an image without objects
    numbers = torch.where(object_itself, torch.arange(1, box_count + 1, device=device), numbers)
    rows = sampler.sample_rows(numbers)
    sampled = torch.cat([one for both in rows for one in both])
    objects = (numbers.flatten()[sampled] - 1).clamp(min=0)
    object_rows = sampled // box_count * object_count + objects
    of_boxes = [sampled % box_count, priors.flatten(0, 1)[sampled], object_itself.flatten()[sampled].byte(), objects]
    of_objects = [boxes.flatten(0, 1)[object_rows], labels.flatten()[object_rows]]
    counts = [len(positive) + len(negative) for positive, negative in rows]
    each = zip(*(torch.split(one, counts) for one in (*of_boxes, *of_objects)), strict=True)
    return [
        SampledBoxes(len(positive), len(objects), *one)
        for one, (positive, _), objects in zip(each, rows, instances, strict=True)
    ]


def box_targets(head: Any, sampling_results: Sequence[Any], rcnn_train_cfg: Any, concat: bool = True) -> Any:
    """What boxes are to become: labels, their weights, and boxes with theirs: `BBoxHead.get_targets` of mmdet."""
    counts = [(len(one.pos_priors), len(one.neg_priors)) for one in sampling_results]
    priors, boxes, wanted = (
        torch.cat([get_box_tensor(getattr(one, name)) for one in sampling_results])
        for name in ("pos_priors", "pos_gt_bboxes", "pos_gt_labels")
    )
    positive = np.repeat(np.tile([True, False], len(counts)), np.array(counts).flatten())
    places = torch.from_numpy(np.flatnonzero(positive)).to(priors.device, non_blocking=True)
    labels = torch.full((len(positive),), head.num_classes, device=priors.device)
    label_weights = priors.new_ones(len(positive))
    labels[places] = wanted
    if rcnn_train_cfg.pos_weight > 0:
        label_weights[places] = rcnn_train_cfg.pos_weight
    if not head.reg_decoded_bbox:
        boxes = head.bbox_coder.encode(priors, boxes)
    encoded, weights = boxes.new_zeros(2, len(positive), boxes.shape[1])
    encoded[places] = boxes
    weights[places] = 1.0
    targets = (labels, label_weights, encoded, weights)
    return targets if concat else tuple(one.split([sum(both) for both in counts]) for one in targets)
