"""Both stages of two-stage detectors in training: losses, gradients, proposals and targets are those of mmdet."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from swin_dense.openmmlab.registry import mmdet_models
from swin_dense.openmmlab.targets import Bitmaps, TrainingSample, without_waits

STRIDES = (4, 8, 16)
SHAPES = ((96, 128), (70, 128), (96, 61))
"""Sizes of the images of a batch, which are padded by unlike amounts."""

RPN = {
    "type": "RPNHead",
    "in_channels": 8,
    "feat_channels": 8,
    "anchor_generator": {"type": "AnchorGenerator", "scales": [4], "ratios": [0.5, 1.0], "strides": list(STRIDES)},
    "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
    "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
    "loss_bbox": {"type": "L1Loss"},
    "train_cfg": {
        "assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.6, "neg_iou_thr": 0.3, "min_pos_iou": 0.3},
        "sampler": {"type": "RandomSampler", "num": 64, "pos_fraction": 0.1, "add_gt_as_proposals": False},
        "allowed_border": -1,
        "pos_weight": -1,
    },
    "test_cfg": {"nms_pre": 300, "max_per_img": 100, "nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0},
}
ROI = {
    "type": "StandardRoIHead",
    "bbox_roi_extractor": {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": 3, "sampling_ratio": 0},
        "out_channels": 8,
        "featmap_strides": list(STRIDES),
    },
    "bbox_head": {
        "type": "Shared2FCBBoxHead",
        "in_channels": 8,
        "fc_out_channels": 16,
        "roi_feat_size": 3,
        "num_classes": 5,
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
        "reg_class_agnostic": False,
        "loss_cls": {"type": "CrossEntropyLoss"},
        "loss_bbox": {"type": "L1Loss"},
    },
    "mask_roi_extractor": {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": 4, "sampling_ratio": 0},
        "out_channels": 8,
        "featmap_strides": list(STRIDES),
    },
    "mask_head": {
        "type": "FCNMaskHead",
        "num_convs": 1,
        "in_channels": 8,
        "conv_out_channels": 8,
        "num_classes": 5,
        "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True},
    },
    "train_cfg": {
        "assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.3, "neg_iou_thr": 0.3, "min_pos_iou": 0.3},
        "sampler": {"type": "RandomSampler", "num": 48, "pos_fraction": 0.25, "add_gt_as_proposals": True},
        "mask_size": 8,
        "pos_weight": -1,
    },
    "test_cfg": {},
}


def samples(counts: Sequence[int], classes: int = 5) -> list[TrainingSample]:
    """One sample with as many objects for each of the images."""
    packed = []
    for (height, width), count in zip(SHAPES, counts, strict=True):
        padded = (-(-height // 32) * 32, -(-width // 32) * 32)
        corners = torch.rand(count, 2) * torch.tensor([0.7 * width, 0.7 * height])
        ends = corners + 4 + torch.rand(count, 2) * torch.tensor([0.3 * width - 4, 0.3 * height - 4])
        masks = Bitmaps((torch.rand(count, height, width) > 0.3).byte().numpy(), height, width).pad((96, 128))
        one = TrainingSample(metainfo={"img_shape": (height, width), "pad_shape": padded})
        boxes = torch.cat([corners, ends], dim=1)
        one.gt_instances = InstanceData(bboxes=boxes, labels=torch.randint(classes, (count,)), masks=masks)
        one.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        packed.append(one)
    return packed


def maps() -> list[Tensor]:
    return [torch.randn(3, 8, 96 // stride, 128 // stride, requires_grad=True) for stride in STRIDES]


def built(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> nn.Module:
    """The head of these settings with large weights, so that nothing is as likely as anything else."""
    merged = ConfigDict(copy.deepcopy(dict(settings)))
    for place, value in changes.items():
        *parents, name = place.split("__")
        part = merged
        for parent in parents:
            part = part[parent]
        part[name] = value
    head: nn.Module = mmdet_models().build(merged)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.1)
    return head


def both(head: nn.Module) -> tuple[nn.Module, nn.Module]:
    """mmdet's head, and a copy of ours, as of one whose weights are averaged."""
    ours = copy.deepcopy(head)
    without_waits(ours)
    ours = copy.deepcopy(ours)
    assert type(ours) is not type(head) and type(ours).__name__ == type(head).__name__
    return head, ours


def gradients(losses: Mapping[str, Any], head: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Those of parameters and maps, of the sum of all losses."""
    terms = [value if isinstance(value, list) else [value] for name, value in losses.items() if "loss" in name]
    torch.stack([one.sum() for values in terms for one in values]).sum().backward()
    assert all(one.grad is not None for one in head.parameters())
    return [one.grad for one in (*head.parameters(), *inputs) if one.grad is not None]


@pytest.mark.parametrize("counts", [(3, 1, 20), (0, 2, 0), (0, 0, 0)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train_cfg__allowed_border": 0},
        {"train_cfg__allowed_border": 8, "train_cfg__pos_weight": 2.0},
        {"train_cfg__sampler__neg_pos_ub": 3, "test_cfg__min_bbox_size": 12},
        {"reg_decoded_bbox": True, "loss_bbox": {"type": "GIoULoss"}, "test_cfg__nms_pre": -1},
        {"loss_cls": {"type": "CrossEntropyLoss"}, "train_cfg__assigner__match_low_quality": False},
    ],
)
def test_the_first_stage_learns_and_proposes_as_mmdet_has_it(counts: Sequence[int], changes: Mapping[str, Any]) -> None:
    torch.manual_seed(0)
    heads, truth, inputs = both(built(RPN, changes)), samples(counts, classes=1), maps()
    found = []
    for head in heads:
        torch.manual_seed(1)
        seen = [one.detach().requires_grad_() for one in inputs]
        losses, proposals = head.loss_and_predict(seen, truth, proposal_cfg=head.test_cfg)
        found.append((losses, gradients(losses, head, seen), proposals))

    for name in ("loss_rpn_cls", "loss_rpn_bbox"):
        terms = [torch.stack(losses[name]).sum() for losses, _, _ in found]
        torch.testing.assert_close(*terms, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-5, atol=1e-7)
    assert sum(float(one.abs().sum()) for one in found[0][1]) > 0
    for ours, theirs in zip(found[1][2], found[0][2], strict=True):
        assert len(ours) == len(theirs) > 10
        for name in ("bboxes", "scores", "labels"):
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"test_cfg__nms": {"type": "soft_nms", "iou_threshold": 0.7}},
        {"train_cfg__assigner__ignore_iof_thr": 0.5},
        {"train_cfg__assigner__neg_iou_thr": [0.1, 0.3]},  # a list: mmdet takes no anchor for a negative one
        {"train_cfg__sampler": {"type": "PseudoSampler"}},
        {"num_convs": 2},
        {"anchor_generator__use_box_type": True},
        {"loss_cls": {"type": "GHMC", "use_sigmoid": True}},
        {"loss_bbox": {"type": "L1Loss", "reduction": "none"}},
    ],
)
def test_a_first_stage_with_other_parts_is_left_to_mmdet(changes: Mapping[str, Any]) -> None:
    torch.manual_seed(0)
    heads, truth, inputs = both(built(RPN, changes)), samples((3, 1, 4)), maps()
    found = []
    for head in heads:
        torch.manual_seed(1)
        losses, proposals = head.loss_and_predict(inputs, truth, proposal_cfg=head.test_cfg)
        assert len(losses["loss_rpn_cls"]) == len(STRIDES)  # mmdet's, level by level
        found.append([*losses["loss_rpn_cls"], *losses["loss_rpn_bbox"], *(one.bboxes for one in proposals)])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("part", ["rpn_conv", ""])
def test_a_first_stage_with_a_hook_calls_it_for_all_anchors(part: str) -> None:
    torch.manual_seed(0)
    _, head = both(built(RPN, {}))
    seen = []

    def note(layer: nn.Module, inputs: Any, output: Any) -> None:
        seen.extend(one.requires_grad for one in ([output] if part else output[0]))

    head.get_submodule(part).register_forward_hook(note)
    head.loss_and_predict(maps(), samples((3, 1, 4)), proposal_cfg=head.test_cfg)
    assert seen == [True] * len(STRIDES)


def test_the_first_stage_learns_in_half_precision() -> None:
    torch.manual_seed(0)
    heads, truth, inputs = both(built(RPN, {})), samples((3, 1, 20), classes=1), maps()
    found = []
    for head in heads:
        torch.manual_seed(1)
        seen = [one.detach().requires_grad_() for one in inputs]
        with torch.autocast("cpu", torch.bfloat16):
            losses, _ = head.loss_and_predict(seen, truth, proposal_cfg=head.test_cfg)
        found.append(gradients(losses, head, seen))
    for ours, theirs in zip(*found[::-1], strict=True):
        assert float((ours - theirs).abs().max()) < 0.01 * float(theirs.abs().max())


def proposed(counts: Sequence[int]) -> list[InstanceData]:
    """Random proposals for each image."""
    corners = [torch.rand(count, 2) * 60 for count in counts]
    boxes = [torch.cat([one, one + 5 + 40 * torch.rand(len(one), 2)], dim=1) for one in corners]
    return [InstanceData(bboxes=one, scores=torch.rand(len(one))) for one in boxes]


@pytest.mark.parametrize("counts", [(3, 1, 20), (0, 2, 0), (0, 0, 0)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train_cfg__assigner__match_low_quality": False, "train_cfg__pos_weight": 2.0},
        {"train_cfg__sampler__add_gt_as_proposals": False, "train_cfg__sampler__neg_pos_ub": 2},
        {"bbox_head__reg_decoded_bbox": True, "bbox_head__loss_bbox": {"type": "GIoULoss"}},
        {"bbox_head__reg_class_agnostic": True, "mask_head": None, "mask_roi_extractor": None},
        {"train_cfg__assigner__neg_iou_thr": [0.1, 0.3]},
        {"train_cfg__assigner__iou_calculator": {"type": "BboxOverlaps2D_GLIP"}},
    ],
)
def test_the_second_stage_learns_as_mmdet_has_it(counts: Sequence[int], changes: Mapping[str, Any]) -> None:
    torch.manual_seed(0)
    heads, truth, inputs, boxes = both(built(ROI, changes)), samples(counts), maps(), proposed((90, 40, 7))
    found = []
    for head in heads:
        torch.manual_seed(1)
        seen = [one.detach().requires_grad_() for one in inputs]
        losses = head.loss(seen, copy.deepcopy(boxes), truth)
        found.append((losses, gradients(losses, head, seen)))

    assert found[0][0].keys() == found[1][0].keys()
    for name, expected in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-6)


def test_proposals_may_be_boxes_of_mmdet() -> None:
    from mmdet.structures.bbox import HorizontalBoxes  # once mmdet can be imported

    torch.manual_seed(0)
    heads = both(built(ROI, {"train_cfg__sampler__add_gt_as_proposals": False}))
    truth, inputs, found = samples((3, 1, 20)), maps(), []
    for change in (None, "assigner"):  # all of ours, and ours behind mmdet's own sampling
        if change:
            for head in heads:
                head.bbox_assigner.perm_repeat_gt_cfg = {}
        torch.manual_seed(0)
        boxes = proposed((90, 40, 7))
        for one in boxes:
            one.bboxes = HorizontalBoxes(one.bboxes)
        for head in heads:
            torch.manual_seed(1)
            found.append(head.loss(inputs, copy.deepcopy(boxes), truth))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found[3], found[2], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("counts", [(3, 1, 20), (0, 2, 0), (0, 0, 0)])
@pytest.mark.parametrize("proposals", [(0, 0, 0), (5, 0, 3)])
@pytest.mark.parametrize("added", [True, False])
def test_images_without_proposals_are_learnt_from_as_mmdet_has_it(
    counts: Sequence[int], proposals: Sequence[int], added: bool
) -> None:
    torch.manual_seed(0)
    heads = both(built(ROI, {"train_cfg__sampler__add_gt_as_proposals": added}))
    truth, inputs, boxes = samples(counts), maps(), proposed(proposals)
    found = []
    for head in heads:
        torch.manual_seed(1)
        found.append(head.loss(inputs, copy.deepcopy(boxes), truth))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("counts", [(3, 1, 20), (0, 2, 0)])
@pytest.mark.parametrize("added", [True, False])
def test_heads_of_others_find_all_that_mmdet_says_of_sampled_boxes(counts: Sequence[int], added: bool) -> None:
    torch.manual_seed(0)
    head, truth, boxes = (
        built(ROI, {"train_cfg__sampler__add_gt_as_proposals": added}),
        samples(counts),
        proposed((90, 40, 7)),
    )
    from swin_dense.openmmlab.regions import sample_boxes  # once mmdet can be imported

    assigner, sampler = head.bbox_assigner, head.bbox_sampler
    ours = copy.deepcopy(head)
    without_waits(ours)
    instances = [one.gt_instances for one in truth]
    torch.manual_seed(1)
    found = sample_boxes(ours.bbox_assigner, ours.bbox_sampler, [one.bboxes for one in boxes], instances)
    torch.manual_seed(1)
    for one, objects, proposals in zip(found, instances, boxes, strict=True):
        priors = InstanceData(priors=proposals.bboxes)
        expected = sampler.sample(assigner.assign(priors, objects), priors, objects)
        assert vars(expected).keys() <= vars(one).keys() and str(one)
        for kind, of_boxes in (
            ("pos", ("priors", "is_gt", "assigned_gt_inds", "gt_labels", "gt_bboxes")),
            ("neg", ("priors",)),
        ):
            indices = getattr(one, f"{kind}_inds")
            order = indices.argsort()  # mmdet sorts them
            for name in ("inds", *of_boxes):
                value, theirs = (getattr(from_whom, f"{kind}_{name}") for from_whom in (one, expected))
                assert torch.equal(value[order], theirs) and value.dtype == theirs.dtype
        for name in ("num_gts", "num_pos", "num_neg", "avg_factor", "avg_factor_with_neg"):
            assert getattr(one, name) == getattr(expected, name)
        everything = torch.cat([objects.bboxes, proposals.bboxes]) if added else proposals.bboxes
        assert torch.equal(everything[one.pos_inds], one.pos_priors)
        assert torch.equal(everything[one.neg_inds], one.neg_priors)


def test_box_targets_may_stay_apart_by_image() -> None:
    torch.manual_seed(0)
    theirs, ours = both(built(ROI, {}))
    drawn = []
    for sample, boxes in zip(samples((3, 1, 20)), proposed((90, 40, 7)), strict=True):
        priors = InstanceData(priors=boxes.bboxes)
        assigned = theirs.bbox_assigner.assign(priors, sample.gt_instances)
        drawn.append(theirs.bbox_sampler.sample(assigned, priors, sample.gt_instances))
    expected, found = (one.bbox_head.get_targets(drawn, one.train_cfg, concat=False) for one in (theirs, ours))
    for some, others in zip(found, expected, strict=True):
        assert all(torch.equal(*pair) for pair in zip(some, others, strict=True))
