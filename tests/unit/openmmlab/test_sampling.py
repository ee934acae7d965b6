"""Which boxes of one image are assigned and drawn: those of mmdet, to the bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmdet.models.task_modules.assigners import MaxIoUAssigner, PointAssigner
from mmdet.models.task_modules.samplers import RandomSampler
from mmengine.structures import InstanceData
from torch import nn

from swin_dense.openmmlab.targets import without_waits


@pytest.mark.parametrize("objects", [0, 1, 3, 40])
@pytest.mark.parametrize(
    "options",
    [
        {"neg_iou_thr": 0.3, "min_pos_iou": 0.3},
        {"neg_iou_thr": (0.1, 0.4), "min_pos_iou": 0.0},
        {"neg_iou_thr": 0.3, "min_pos_iou": 0.6},
        {"neg_iou_thr": 0.7, "match_low_quality": False},
        {"neg_iou_thr": 0.3, "gt_max_assign_all": False},
        {"neg_iou_thr": [0.1, 0.4]},
        {"neg_iou_thr": 1},
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


def test_points_are_numbered_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """mmdet numbers them on the CPU, where they cannot be indexed by a mask of a GPU."""
    module, places = nn.Module(), []
    module.assigner = PointAssigner()
    without_waits(module)
    monkeypatch.setattr(PointAssigner, "assign", lambda *args: places.append(torch.arange(3).device.type))
    for device in ("meta", "cpu"):
        module.assigner.assign(InstanceData(priors=torch.zeros(5, 3, device=device)), InstanceData())
    assert places == ["meta", "cpu"]
