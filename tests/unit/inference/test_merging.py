"""Overlapping detections become one: judged by torchvision's NMS and by soft-NMS written down plainly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from swin_dense.errors import ConfigError
from swin_dense.inference.merging import LOWEST_SOFT_SCORE, METHODS, Merging


def crowded(count: int = 300, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Random boxes of which many overlap, with distinct scores."""
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(count, 2, generator=generator) * 60
    sides = 10 + torch.rand(count, 2, generator=generator) * 40
    scores = (torch.randperm(count, generator=generator) + 1) / (count + 1)
    return torch.cat([corners, corners + sides], 1), scores, torch.randint(classes, (count,), generator=generator)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_nms_is_that_of_torchvision_class_by_class(threshold: float) -> None:
    boxes, scores, labels = crowded()
    merged = Merging("nms", threshold=threshold)(boxes, scores, labels)
    expected = batched_nms(boxes, scores, labels, threshold)
    assert [group[0] for group in merged.members] == expected.tolist()
    assert torch.equal(merged.boxes, boxes[expected]) and torch.equal(merged.scores, scores[expected])


def test_voting_gives_the_mean_of_what_nms_would_drop_weighted_by_the_scores() -> None:
    boxes, scores, labels = crowded()
    merged, kept = (Merging(method)(boxes, scores, labels) for method in ("vote", "nms"))
    assert torch.equal(merged.scores, kept.scores)
    assert sorted(i for group in merged.members for i in group) == list(range(len(boxes)))
    for box, group, (best,) in zip(merged.boxes, merged.members, kept.members, strict=True):
        assert group[0] == best and len(set(labels[group].tolist())) == 1
        assert len(group) == 1 or box_iou(boxes[best][None], boxes[group]).min() > 0.5
        expected = (boxes[group] * scores[group, None]).sum(dim=0) / scores[group].sum()
        torch.testing.assert_close(box, expected, rtol=1e-5, atol=1e-5)
        assert len(group) > 1 or torch.equal(box, boxes[best])
    assert max(map(len, merged.members)) > 3


def plain_soft_nms(boxes: Tensor, scores: Tensor, weight: Callable[[float], float]) -> list[tuple[float, int]]:
    """Algorithm of Bodla et al. (2017), figure 2, for one class: (score, position), best first."""
    left = {i: float(score) for i, score in enumerate(scores)}
    kept = []
    while left:
        best = max(left, key=left.__getitem__)
        score = left.pop(best)
        kept.append((score, best))
        for i in left:
            left[i] *= weight(float(box_iou(boxes[best : best + 1].double(), boxes[i : i + 1].double())))
        left = {i: value for i, value in left.items() if value >= LOWEST_SOFT_SCORE}
    return kept


@pytest.mark.parametrize(
    ("method", "weight"),
    [
        ("linear_soft_nms", lambda iou: 1 - iou if iou >= 0.3 else 1.0),
        ("gaussian_soft_nms", lambda iou: math.exp(-(iou**2) / 0.4)),
    ],
)
def test_soft_nms_lowers_scores_as_published(method: str, weight: Callable[[float], float]) -> None:
    boxes, scores, labels = crowded(count=60, classes=2)
    merged = Merging(method, threshold=0.3, sigma=0.4)(boxes, scores, labels)
    expected = []
    for label in (0, 1):
        places = (labels == label).nonzero().flatten()
        expected += [(value, int(places[i])) for value, i in plain_soft_nms(boxes[places], scores[places], weight)]
    expected.sort(reverse=True)
    assert [group[0] for group in merged.members] == [i for _, i in expected]
    assert merged.scores.tolist() == pytest.approx([value for value, _ in expected], rel=1e-5)
    assert torch.equal(merged.boxes, boxes[[i for _, i in expected]])
    assert merged.scores.min() < scores.min()


def test_merging_unites_what_overlaps_the_best_box_of_its_class() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [8, 1, 30, 9], [0, 0, 10, 10], [6, 0, 20, 10], [50, 50, 60, 60]]).float()
    scores, labels = torch.tensor([0.5, 0.6, 0.7, 0.9, 0.8]), torch.tensor([1, 1, 2, 1, 1])
    merged = Merging("nmm", "ios", threshold=0.3)(boxes, scores, labels)
    assert merged.members == [[3, 1, 0], [4], [2]]
    assert merged.boxes.tolist() == [[0, 0, 30, 10], [50, 50, 60, 60], [0, 0, 10, 10]]
    assert merged.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_a_part_overlaps_its_whole_in_the_measure_of_the_smaller_box_alone() -> None:
    boxes, scores, labels = (
        torch.tensor([[0, 0, 40, 40], [0, 0, 10, 10]]).float(),
        torch.tensor([0.9, 0.8]),
        torch.zeros(2),
    )
    assert len(Merging(overlap="iou")(boxes, scores, labels).scores) == 2
    assert len(Merging(overlap="ios")(boxes, scores, labels).scores) == 1


@pytest.mark.parametrize("method", METHODS)
def test_of_equal_scores_the_earlier_is_the_better(method: str) -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]]).float()
    merged = Merging(method)(boxes, torch.full((3,), 0.5), torch.zeros(3, dtype=torch.int64))
    assert [group[0] for group in merged.members][:2] == [0, 2]


@pytest.mark.parametrize("method", METHODS)
def test_boxes_without_area_overlap_nothing(method: str) -> None:
    boxes = torch.tensor([[5, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10]]).float()
    merged = Merging(method)(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64))
    assert merged.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "softnms"}, 'did you mean "linear_soft_nms"|valid:'),
        ({"method": "nsm"}, 'did you mean "nm'),
        ({"overlap": "giou"}, 'did you mean "iou"'),
        ({"method": "gaussian_soft_nms", "overlap": "ios"}, "merge_overlap"),
        ({"method": "vote", "overlap": "ios"}, "merge_overlap"),
        ({"threshold": 1.5}, "merge_threshold"),
        ({"sigma": 0.0}, "soft_nms_sigma"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Merging(**options)
