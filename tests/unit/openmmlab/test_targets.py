"""What a detector is to learn: mmdet's own targets, to the bit."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks, mask_target
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from swin_dense.openmmlab.targets import Bitmaps, TrainingSample, mask_targets


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


def test_a_copy_of_a_sample_has_labels_of_its_own_and_the_same_tensors() -> None:
    sample = TrainingSample(metainfo={"img_shape": (4, 5)})
    sample.gt_instances = InstanceData(bboxes=torch.rand(2, 4), labels=torch.tensor([3, 4]))
    copied = copy.deepcopy([sample])[0]
    copied.gt_instances.labels = torch.zeros(2)
    assert sample.gt_instances.labels.tolist() == [3, 4]
    assert copied.gt_instances.bboxes is sample.gt_instances.bboxes
    assert copied.metainfo == sample.metainfo
