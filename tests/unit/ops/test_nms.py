"""Non-maximum suppression against greedy loops written from the definition."""

from __future__ import annotations

import math

import mmcv.ops
import numpy as np
import pytest
import torch

METHODS = ("naive", "linear", "gaussian")


def iou(first: list[float], second: list[float], offset: int) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0]) + offset
    height = min(first[3], second[3]) - max(first[1], second[1]) + offset
    intersection = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (first, second))
    return intersection / (areas - intersection) if intersection else 0.0


def greedy_nms(boxes: list[list[float]], scores: list[float], threshold: float, offset: int) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda index: -scores[index]):
        if all(iou(boxes[index], boxes[better], offset) <= threshold for better in kept):
            kept.append(index)
    return kept


def greedy_groups(boxes: list[list[float]], scores: list[float], threshold: float) -> list[list[int]]:
    groups: list[list[int]] = []
    for index in sorted(range(len(boxes)), key=lambda index: -scores[index]):
        for group in groups:
            if iou(boxes[index], boxes[group[0]], 0) >= threshold:
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def greedy_soft_nms(
    boxes: list[list[float]],
    scores: list[float],
    threshold: float,
    sigma: float,
    min_score: float,
    method: str,
    offset: int,
) -> list[tuple[int, float]]:
    remaining = dict(enumerate(scores))
    kept: list[tuple[int, float]] = []
    while remaining:
        best = max(remaining, key=lambda index: remaining[index])
        kept.append((best, remaining.pop(best)))
        for index in list(remaining):
            overlap = iou(boxes[best], boxes[index], offset)
            if method == "gaussian":
                remaining[index] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                remaining[index] *= 1 - overlap if method == "linear" else 0
            if remaining[index] < min_score:
                del remaining[index]
    return kept


def random_detections(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner, size, scores = (torch.rand(count, n, generator=generator).double() for n in (2, 2, 1))
    corner, size = corner * 50, size * 30 + 5
    return torch.cat([corner, corner + size], dim=1), scores[:, 0]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5])
def test_nms_keeps_what_the_greedy_loop_keeps(threshold: float, offset: int, device: str) -> None:
    boxes, scores = random_detections(80, seed=0)
    dets, kept = mmcv.ops.nms(boxes.to(device), scores.to(device), threshold, offset=offset)
    expected = greedy_nms(boxes.tolist(), scores.tolist(), threshold, offset)
    assert kept.tolist() == expected
    assert 0 < len(expected) < 80
    torch.testing.assert_close(dets.cpu(), torch.cat([boxes, scores[:, None]], dim=1)[expected], rtol=0, atol=0)


def test_nms_offset_counts_the_last_pixel_as_inside() -> None:
    # 2 x 2 pixels each, sharing one column of two: IoU 2 / 6, or none when x2 is the border.
    boxes, scores = torch.tensor([[0.0, 0, 1, 1], [1, 0, 2, 1]]), torch.tensor([0.9, 0.8])
    assert mmcv.ops.nms(boxes, scores, 0.3, offset=1)[1].tolist() == [0]
    assert mmcv.ops.nms(boxes, scores, 0.3, offset=0)[1].tolist() == [0, 1]


def test_an_iou_at_the_threshold_survives_nms_but_is_matched_by_nms_match() -> None:
    boxes, scores = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]]), torch.tensor([0.9, 0.8])
    assert mmcv.ops.nms(boxes, scores, 0.5)[1].tolist() == [0, 1]
    assert [group.tolist() for group in mmcv.ops.nms_match(torch.cat([boxes, scores[:, None]], 1), 0.5)] == [[0, 1]]


def test_of_equal_scores_the_earlier_box_wins(device: str) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [40, 0, 50, 10], [0, 1, 10, 11]], device=device)
    scores = torch.full((4,), 0.5, device=device)
    assert mmcv.ops.nms(boxes, scores, 0.5)[1].tolist() == [0, 2]
    assert mmcv.ops.soft_nms(boxes, scores, 0.5, method="naive")[1].tolist() == [0, 2]
    matched = mmcv.ops.nms_match(torch.cat([boxes, scores[:, None]], 1), 0.5)
    assert [group.tolist() for group in matched] == [[0, 1, 3], [2]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nms_of_half_precision_boxes_equals_that_of_the_same_numbers_in_full(dtype: torch.dtype, device: str) -> None:
    boxes, scores = (tensor.to(device, dtype) for tensor in random_detections(60, seed=1))
    assert mmcv.ops.nms(boxes, scores, 0.5)[1].tolist() == greedy_nms(
        boxes.double().tolist(), scores.double().tolist(), 0.5, 0
    )
    with torch.autocast(device, dtype=dtype):
        mixed = mmcv.ops.nms(boxes.float(), scores, 0.5)[1]
    assert mixed.tolist() == mmcv.ops.nms(boxes, scores, 0.5)[1].tolist()


def test_batched_nms_suppresses_within_a_class_only() -> None:
    boxes, scores = torch.tensor([[0.0, 0, 10, 10]]).repeat(3, 1), torch.tensor([0.7, 0.9, 0.8])
    labels, config = torch.tensor([0, 1, 0]), {"type": "nms", "iou_threshold": 0.5}
    assert mmcv.ops.batched_nms(boxes, scores, labels, config)[1].tolist() == [1, 2]
    assert mmcv.ops.batched_nms(boxes, scores, labels, config, class_agnostic=True)[1].tolist() == [1]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_soft_nms_decays_scores_as_the_greedy_loop_does(method: str, offset: int) -> None:
    boxes, scores = random_detections(50, seed=2)
    before = scores.clone()
    dets, kept = mmcv.ops.soft_nms(boxes, scores, 0.3, sigma=0.4, min_score=0.05, method=method, offset=offset)
    expected = greedy_soft_nms(boxes.tolist(), scores.tolist(), 0.3, 0.4, 0.05, method, offset)
    assert kept.tolist() == [index for index, _ in expected]
    assert 5 < len(expected) < 50
    torch.testing.assert_close(dets[:, 4].tolist(), [score for _, score in expected], rtol=1e-12, atol=0)
    torch.testing.assert_close(dets[:, :4], boxes[kept], rtol=0, atol=0)
    torch.testing.assert_close(scores, before, rtol=0, atol=0)


def test_soft_nms_multiplies_by_one_minus_the_iou() -> None:
    boxes, scores = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]]), torch.tensor([0.9, 0.8])
    dets, _ = mmcv.ops.soft_nms(boxes, scores, 0.3, method="linear")
    torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, 0.4]))


def test_soft_nms_drops_scores_that_began_too_low_but_never_the_best() -> None:
    boxes, scores = torch.tensor([[0.0, 0, 1, 1], [5, 5, 6, 6]]), torch.tensor([1e-4, 2e-4])
    assert mmcv.ops.soft_nms(boxes, scores, min_score=1e-3)[1].tolist() == [1]


@pytest.mark.parametrize("method", METHODS)
def test_soft_nms_of_boxes_without_area_leaves_their_scores(method: str) -> None:
    dets, kept = mmcv.ops.soft_nms(torch.zeros(2, 4), torch.tensor([0.8, 0.9]), method=method)
    assert kept.tolist() == [1, 0]
    torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, 0.8]))


@pytest.mark.parametrize("threshold", [0.2, 0.6])
def test_nms_match_groups_each_box_with_the_first_that_suppresses_it(threshold: float) -> None:
    boxes, scores = random_detections(60, seed=3)
    groups = mmcv.ops.nms_match(torch.cat([boxes, scores[:, None]], dim=1), threshold)
    expected = greedy_groups(boxes.tolist(), scores.tolist(), threshold)
    assert [group.tolist() for group in groups] == expected
    assert 1 < len(expected) < 60


def test_numpy_arrays_come_back_as_numpy_arrays() -> None:
    dets, kept = mmcv.ops.nms(np.array([[0, 0, 1, 1]], np.float32), np.array([0.5], np.float32), 0.5)
    assert isinstance(dets, np.ndarray) and kept.tolist() == [0]


def test_no_boxes_give_no_boxes(device: str) -> None:
    boxes, scores = torch.zeros(0, 4, device=device), torch.zeros(0, device=device)
    for dets, kept in (mmcv.ops.nms(boxes, scores, 0.5), mmcv.ops.soft_nms(boxes, scores)):
        assert dets.shape == (0, 5) and kept.shape == (0,) and kept.dtype == torch.int64
    assert mmcv.ops.nms_match(torch.zeros(0, 5, device=device), 0.5) == []
