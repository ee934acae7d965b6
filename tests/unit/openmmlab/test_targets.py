"""What a detector is to learn: mmdet's own targets, to the bit."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.models.task_modules.assigners import MaxIoUAssigner
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.structures.mask import BitmapMasks, mask_target
from mmengine.config import ConfigDict
from torch import nn

from swin_dense.openmmlab.targets import Bitmaps, mask_targets, without_waits


@pytest.mark.parametrize("objects", [0, 1, 3, 40])
@pytest.mark.parametrize(
    "options",
    [
        {"neg_iou_thr": 0.3, "min_pos_iou": 0.3},
        {"neg_iou_thr": (0.1, 0.4), "min_pos_iou": 0.0},
        {"neg_iou_thr": 0.3, "min_pos_iou": 0.6},
        {"neg_iou_thr": 0.7, "match_low_quality": False},
        {"neg_iou_thr": 0.3, "gt_max_assign_all": False},
    ],
)
def test_boxes_are_assigned_as_by_mmdet(objects: int, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    overlaps = (20 * torch.rand(objects, 500)).floor() / 20  # many are equal
    overlaps[:, ::17] = -1  # boxes in ignored regions
    labels = torch.randint(80, (objects,))
    theirs = MaxIoUAssigner(pos_iou_thr=0.7, **options)
    module = nn.Module()
    module.assigners = [copy.deepcopy(theirs)]
    without_waits(module)
    (ours,) = module.assigners
    assert type(ours) is not MaxIoUAssigner

    found, expected = (one.assign_wrt_overlaps(overlaps, labels) for one in (ours, theirs))

    assert (found.num_gts, found.gt_inds.dtype) == (expected.num_gts, expected.gt_inds.dtype)
    for name in ("gt_inds", "labels", "max_overlaps"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_boxes_are_drawn_as_by_mmdet() -> None:
    module = nn.Module()
    module.sampler = RandomSampler(num=4, pos_fraction=0.5)
    without_waits(module)
    assert type(module.sampler) is not RandomSampler
    draws = []
    for sampler in (RandomSampler(num=4, pos_fraction=0.5), module.sampler):
        torch.manual_seed(0)
        draws.append(sampler.random_choice(torch.arange(100, 200), 7))
    assert torch.equal(*draws)


@pytest.mark.parametrize("soft", [False, True])
def test_masks_are_cut_as_by_mmdet(soft: bool) -> None:
    generator = np.random.default_rng(0)
    torch.manual_seed(0)
    sampled, ours, theirs = [], [], []
    for objects, boxes in ((3, 20), (30, 12), (2, 0)):
        corners = 120 * torch.rand(boxes, 2) - 10
        priors = torch.cat([corners, corners + 90 * torch.rand(boxes, 2)], dim=1)
        sampled.append(SimpleNamespace(pos_priors=priors, pos_assigned_gt_inds=torch.randint(objects, (boxes,))))
        masks = (generator.random((objects, 100, 130)) > 0.5).astype(np.uint8)
        ours.append(SimpleNamespace(masks=Bitmaps(masks, 100, 130).pad((128, 160))))
        theirs.append(BitmapMasks(masks, 100, 130).pad((128, 160)))
    config = ConfigDict(mask_size=(28, 14), soft_mask_target=soft)

    found = mask_targets(sampled, ours, config)

    columns = [[one.pos_priors for one in sampled], [one.pos_assigned_gt_inds for one in sampled]]
    assert found.shape == (32, 28, 14)
    assert torch.equal(found, mask_target(*columns, theirs, config))


def test_masks_are_read_with_the_padding_that_mmdet_asked_for() -> None:
    masks = (np.random.default_rng(0).random((3, 10, 13)) > 0.5).astype(np.uint8)
    ours, theirs = (kind(masks, 10, 13) for kind in (Bitmaps, BitmapMasks))
    for shape, value in (((16, 13), 0), ((16, 20), 0), ((18, 21), 1)):
        found, expected = copy.deepcopy(ours).pad(shape, value), theirs.pad(shape, value)
        assert len(found) == len(expected)
        assert np.array_equal(found.masks, expected.masks)
        assert np.array_equal(found[1].masks, expected[1].masks)
