"""The targets of RepPoints V2 against plain loops, and against mmdet's assigners where it has them."""

from __future__ import annotations

import math

import pytest
import torch
from mmdet.models.task_modules.assigners import ATSSAssigner, PointAssigner
from mmengine.structures import InstanceData
from torch import Tensor

from swin_dense.openmmlab.heads.grid import Grid, to_boxes, to_points
from swin_dense.openmmlab.heads.reppoints_v2_loss import (
    UNASSIGNED,
    assign_adaptive,
    assign_nearest,
    corner_targets,
    foreground_weights,
    gaussian_radii,
    object_centers,
)

STRIDES = (8, 16, 32, 64)


def grid_of(height: int, width: int) -> Grid:
    return Grid.of([torch.empty(1, -(-height // s), -(-width // s)) for s in STRIDES], STRIDES)


def random_boxes(count: int, height: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.rand(2, count, 2, generator=generator) * torch.tensor([width, height])
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second) + 4], dim=1)


def middles(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def test_a_grid_lists_cells_row_by_row_and_knows_the_padding() -> None:
    grid = Grid.of([torch.empty(2, 3), torch.empty(1, 2)], (8, 16))
    assert grid.xy.tolist() == [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8], [0, 0], [16, 0]]
    assert grid.strides.tolist() == [8.0] * 6 + [16.0] * 2
    assert grid.is_inside(16, 16).tolist() == [True, True, False, True, True, False, True, False]
    part = grid.select(grid.is_inside(8, 24))
    assert part.counts == [3, 2] and part.xy.tolist() == [[0, 0], [8, 0], [16, 0], [0, 0], [16, 0]]


def test_points_are_y_before_x_and_the_first_two_span_the_box() -> None:
    grid = Grid.of([torch.empty(2, 2)], (8,))
    offsets = torch.zeros(4, 6)
    offsets[3] = torch.tensor([-1.0, -0.5, 2.0, 1.5, 9.0, 9.0])  # y, x of three points of the cell at (8, 8)
    points = to_points(offsets, grid)
    assert points[3].tolist() == [[4.0, 0.0], [20.0, 24.0], [80.0, 80.0]]
    assert to_boxes(points)[3].tolist() == [4.0, 0.0, 20.0, 24.0]


@pytest.mark.parametrize("seed", range(5))
def test_first_points_are_assigned_as_mmdet_assigns_them(seed: int) -> None:
    grid, boxes = grid_of(300, 400), random_boxes(12, 300, 400, seed)
    points = torch.cat([grid.xy, grid.strides[:, None]], dim=1)
    objects = InstanceData(bboxes=boxes, labels=torch.zeros(12, dtype=torch.long))
    theirs = PointAssigner(scale=4, pos_num=1).assign(InstanceData(priors=points), objects).gt_inds - 1
    ours = assign_nearest(grid, boxes, middles(boxes), scale=4)
    assert (ours == theirs).all() and (ours != UNASSIGNED).sum() > 5


@pytest.mark.parametrize("seed", range(5))
def test_refined_points_are_assigned_as_mmdet_assigns_them(seed: int) -> None:
    grid, boxes = grid_of(300, 400), random_boxes(8, 300, 400, seed)
    generator = torch.Generator().manual_seed(seed)
    sides = 4 * grid.strides[:, None] * torch.rand(len(grid.xy), 4, generator=generator)
    predicted = torch.cat([grid.xy - sides[:, :2], grid.xy + sides[:, 2:]], dim=1)
    objects = InstanceData(bboxes=boxes, labels=torch.zeros(8, dtype=torch.long))
    theirs = ATSSAssigner(topk=9).assign(InstanceData(priors=predicted), grid.counts, objects).gt_inds - 1
    ours = assign_adaptive(predicted, grid, boxes, middles(boxes), topk=9)
    assert (ours == theirs).all() and (ours != UNASSIGNED).sum() > 5


def test_masks_move_the_centre_of_an_object_to_their_centroid() -> None:
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [2.0, 2.0, 6.0, 6.0]])
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, 0:2, 4:6] = True  # the second mask is so thin that nothing is left of it
    assert object_centers(boxes, masks).tolist() == [[4.5, 0.5], [4.0, 4.0]]
    assert object_centers(boxes, None).tolist() == [[4.0, 4.0], [4.0, 4.0]]
    grid = grid_of(64, 64)
    box, right = torch.tensor([[0.0, 0.0, 32.0, 32.0]]), torch.tensor([[24.0, 8.0]])
    assert grid.xy[assign_nearest(grid, box, right, scale=4) == 0].tolist() == [[24.0, 8.0]]
    predicted = torch.cat([grid.xy - 8, grid.xy + 8], dim=1)
    chosen = assign_adaptive(predicted, grid, box, right, topk=1) == 0
    assert grid.xy[chosen].tolist() == [[24.0, 8.0]]


def test_a_cell_that_two_objects_want_takes_the_nearer_one() -> None:
    grid = grid_of(64, 64)
    boxes = torch.tensor([[3.0, 3.0, 35.0, 35.0], [1.0, 1.0, 33.0, 33.0]])
    assert assign_nearest(grid, boxes, middles(boxes), scale=4).unique().tolist() == [UNASSIGNED, 1]


def slow_corner_targets(grid: Grid, corners: Tensor, radii: Tensor) -> tuple[list[float], dict[int, list[float]]]:
    """Heatmap, and offsets by cell, cell by cell and corner by corner."""
    heat = [0.0] * len(grid.xy)
    for cell, (x, y) in enumerate(grid.xy.tolist()):
        for (corner_x, corner_y), radius in zip(corners.tolist(), radii.tolist(), strict=True):
            distance = math.hypot(x - corner_x, y - corner_y)
            if distance < radius:
                deviation = (2 * radius + 1) / 6
                heat[cell] = max(heat[cell], math.exp(-(distance**2) / (2 * deviation**2)))
    offsets: dict[int, tuple[float, list[float]]] = {}
    start = 0
    for count in grid.counts:
        for corner_x, corner_y in corners.tolist():
            distances = [math.hypot(x - corner_x, y - corner_y) for x, y in grid.xy[start : start + count].tolist()]
            cell = start + min(range(count), key=distances.__getitem__)
            x, y = grid.xy[cell].tolist()
            stride, distance = float(grid.strides[cell]), min(distances)
            if cell not in offsets or distance < offsets[cell][0]:
                offsets[cell] = distance, [(corner_x - x) / stride, (corner_y - y) / stride]
            heat[cell] = 1.0
        start += count
    return heat, {cell: offset for cell, (_, offset) in offsets.items()}


@pytest.mark.parametrize("seed", range(3))
def test_heatmaps_and_offsets_equal_a_slow_reference(seed: int) -> None:
    grid, boxes = grid_of(100, 140), random_boxes(6, 100, 140, seed)
    radii = gaussian_radii(boxes, 0.7)
    for corners in (boxes[:, :2], boxes[:, 2:]):
        targets = corner_targets(grid, corners, radii)
        heat, offsets = slow_corner_targets(grid, corners, radii)
        torch.testing.assert_close(targets.heatmap, torch.tensor(heat), rtol=1e-4, atol=1e-6)
        assert targets.is_corner.nonzero().flatten().tolist() == sorted(offsets)
        expected = torch.tensor([offsets[cell] for cell in sorted(offsets)])
        torch.testing.assert_close(targets.offsets[targets.is_corner], expected, rtol=1e-4, atol=1e-5)
        assert not targets.offsets[~targets.is_corner].any()


def test_a_radius_is_how_far_corners_may_be_off() -> None:
    """At the radius the worst of a shifted, a shrunk and a grown box overlaps by exactly the bound."""
    boxes = torch.tensor([[10.0, 20.0, 60.0, 50.0], [0.0, 0.0, 300.0, 12.0], [5.0, 5.0, 6.0, 90.0]])
    for box, radius in zip(boxes, gaussian_radii(boxes, 0.7).tolist(), strict=True):
        width, height = (box[2:] - box[:2]).tolist()
        area = width * height
        shifted = (width - radius) * (height - radius)
        overlaps = [
            shifted / (2 * area - shifted),
            (width - 2 * radius) * (height - 2 * radius) / area,
            area / ((width + 2 * radius) * (height + 2 * radius)),
        ]
        assert min(overlaps) == pytest.approx(0.7, abs=1e-4)


def test_foreground_is_inside_the_boxes_of_a_class_and_small_boxes_win() -> None:
    boxes = torch.tensor([[0.0, 0.0, 31.0, 31.0], [8.0, 8.0, 15.0, 23.0], [16.0, 0.0, 16.5, 0.5]])
    weights = foreground_weights(boxes, torch.tensor([1, 1, 0]), num_classes=3, size=(5, 4), stride=8)
    large, small = 1 / 31**2, 1 / (7 * 15)
    expected = torch.full((5, 4), large)
    expected[4] = 0
    expected[1:3, 1] = small
    torch.testing.assert_close(weights[1], expected)
    assert weights[0].nonzero().tolist() == [[0, 2]] and weights[0, 0, 2] == 1  # a quarter of a pixel counts as one
    assert not weights[2].any()


def test_images_without_objects_have_targets_too() -> None:
    grid, none = grid_of(64, 64), torch.zeros(0, 4)
    assert (assign_nearest(grid, none, none[:, :2], 4) == UNASSIGNED).all()
    assert (assign_adaptive(torch.rand(len(grid.xy), 4), grid, none, none[:, :2], 9) == UNASSIGNED).all()
    targets = corner_targets(grid, none[:, :2], none[:, 0])
    assert not targets.heatmap.any() and not targets.is_corner.any()
    assert not foreground_weights(none, torch.zeros(0, dtype=torch.long), 3, (8, 8), 8).any()
