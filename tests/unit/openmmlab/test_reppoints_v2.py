"""RepPoints V2: the published losses, boxes that corners correct, detections from outputs that are right."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch import Tensor

from swin_dense.config import load_config
from swin_dense.errors import ConfigError
from swin_dense.openmmlab.counting import run_detector
from swin_dense.openmmlab.detection import build_network
from swin_dense.openmmlab.heads.grid import apply_in_float32
from swin_dense.openmmlab.heads.reppoints_v2 import CornerPooling, RepPointsV2Head
from swin_dense.openmmlab.heads.reppoints_v2_inference import LevelOutputs, detect, refine_corners
from swin_dense.openmmlab.heads.reppoints_v2_loss import ForegroundFocalLoss, InclusiveGIoULoss
from swin_dense.openmmlab.registry import mmdet_models
from swin_dense.stats import model_stats

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "detection"
STRIDES = (8, 16, 32, 64, 128)
CLASSES, WIDTH = 3, 32
BOXES = [torch.tensor([[20.0, 30.0, 100.0, 90.0], [150.0, 140.0, 330.0, 350.0]]), torch.tensor([[40.0, 200, 260, 300]])]
LABELS = [torch.tensor([0, 2]), torch.tensor([1])]
TEST = {"nms_pre": 100, "score_thr": 0.05, "nms": {"type": "nms", "iou_threshold": 0.6}, "max_per_img": 10}


def small_head(**changes: Any) -> RepPointsV2Head:
    """The published head with fewer channels, classes and layers."""
    mmdet_models()
    options: dict[str, Any] = dict(load_config(CONFIGS / "reppoints-v2_swin-t_bifpn_3x_coco.py").model["bbox_head"])
    options.pop("type")
    options |= {"num_classes": CLASSES, "in_channels": WIDTH, "feat_channels": WIDTH, "point_feat_channels": WIDTH}
    options |= {"corner_dim": WIDTH, "stacked_convs": 2}
    options |= {"train_cfg": {"scale": 4, "topk": 9, "corner_overlap": 0.7}, "test_cfg": {**TEST, "min_bbox_size": 0}}
    head = RepPointsV2Head(**{**options, **changes})
    head.init_weights()
    return head


def maps(side: int) -> list[Tensor]:
    return [torch.empty(2, WIDTH, side // stride, side // stride) for stride in STRIDES]


def fill_with_waves(tensors: Iterable[Tensor], amplitude: float) -> None:
    """The same numbers everywhere, whatever the generator of random ones."""
    for number, tensor in enumerate(tensors):
        places = torch.arange(tensor.numel(), dtype=torch.float64)
        tensor.data = (amplitude * torch.sin(places * 12.9898 + number)).view_as(tensor).float()


def objects(side: int, masks: bool = False) -> list[Any]:
    """The boxes above; of their masks only the left half is filled."""
    found = []
    for boxes, labels in zip(BOXES, LABELS, strict=True):
        one = InstanceData(bboxes=boxes, labels=labels)
        if masks:
            bitmaps = np.zeros((len(boxes), side, side), dtype=np.uint8)
            for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes.int().tolist(), strict=True):
                bitmap[y1:y2, x1 : (x1 + x2) // 2] = 1
            one.masks = BitmapMasks(bitmaps, side, side)
        found.append(one)
    return found


PUBLISHED = {
    False: {
        "loss_cls": 1720.891113,
        "loss_pts_init": 0.450386,
        "loss_pts_refine": 1.273524,
        "loss_heatmap": 13.749002,
        "loss_offset": 1.172104,
        "loss_sem": 0.845665,
    },
    True: {
        "loss_cls": 2281.618896,
        "loss_pts_init": 0.68693,
        "loss_pts_refine": 1.209513,
        "loss_heatmap": 10.123059,
        "loss_offset": 0.810567,
        "loss_sem": 0.719658,
    },
}
"""What the official head makes of these weights, maps and objects; with masks, objects have other centres."""


@pytest.mark.parametrize("masks", [False, True])
def test_losses_are_those_of_the_published_code(masks: bool) -> None:
    head = small_head(num_mask_params=189 if masks else 0)
    fill_with_waves([parameter for _, parameter in sorted(head.named_parameters())], 0.5)
    levels = maps(384)
    fill_with_waves(levels, 2.0)
    terms = head.loss_by_outputs(head(levels), objects(384, masks), [(384, 384), (320, 352)])
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(PUBLISHED[masks], rel=1e-4)


def test_parameters_have_the_names_of_the_published_checkpoints() -> None:
    names = {name for name, _ in small_head(num_mask_params=189).named_parameters()}
    assert {
        "cls_convs.1.conv.weight",
        "reg_convs.0.gn.bias",
        "shared_convs.0.conv.weight",
        "hem_tl.p1_conv1.conv.weight",
        "hem_tl.p_conv1.weight",
        "hem_br.p_gn1.bias",
        "hem_br.conv2.gn.weight",
        "reppoints_cls_conv.weight",
        "reppoints_hem_tl_offset_out.bias",
        "reppoints_sem_embedding.conv.weight",
        "controller.bias",
    } <= names
    assert small_head().state_dict().keys() == {name for name in names if not name.startswith("controller")}


def test_every_parameter_learns_and_the_losses_fall() -> None:
    torch.manual_seed(0)
    head = small_head()
    levels = [torch.randn(one[:1].shape) for one in maps(384)]
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    totals = []
    for _ in range(6):
        total = sum(head.loss_by_outputs(head(levels), objects(384)[:1], [(384, 384)]).values())
        optimizer.zero_grad()
        total.backward()
        totals.append(float(total.detach()))
        assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
        optimizer.step()
    assert totals[-1] < 0.7 * totals[0]
    assert [name for name, p in head.named_parameters() if not p.grad.any()] == []


def test_images_without_objects_teach_what_is_not_there() -> None:
    head = small_head()
    nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    terms = head.loss_by_outputs(head([torch.randn(one.shape) for one in maps(128)]), [nothing] * 2, [(128, 128)] * 2)
    sum(terms.values()).backward()
    assert all(value.isfinite() for value in terms.values())
    assert float(terms["loss_cls"]) > 0 and float(terms["loss_sem"]) > 0
    assert float(terms["loss_pts_init"]) == float(terms["loss_pts_refine"]) == float(terms["loss_offset"]) == 0
    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_corner_pooling_lets_a_place_see_along_its_row_and_column() -> None:
    """A top left corner sees what lies to the right of it and below; a bottom right one the opposite."""
    torch.manual_seed(0)
    features = torch.randn(1, 4, 8, 9, requires_grad=True)
    reach = {}
    for directions in (("top", "left"), ("bottom", "right")):
        layer = CornerPooling(4, 4, directions, None)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.abs_()
        gradients = torch.zeros(8, 9)
        for _ in range(50):  # which place is the highest changes with the map
            one = torch.rand_like(features).requires_grad_()
            layer(one)[0, :, 4, 4].sum().backward()
            gradients += one.grad[0].abs().sum(dim=0)
        rows, columns = (gradients > 0).nonzero().unbind(dim=1)
        reach[directions] = [rows.min(), rows.max(), columns.min(), columns.max()]
    near = 2  # two convolutions of 3x3
    assert reach[("top", "left")] == [4 - near, 7, 4 - near, 8]
    assert reach[("bottom", "right")] == [0, 4 + near, 0, 4 + near]


def test_a_corner_moves_to_the_strongest_of_four_cells_and_their_offset() -> None:
    logits, offsets = torch.full((4, 5), -5.0), torch.zeros(2, 4, 5)
    logits[2, 3], offsets[:, 2, 3] = 3.0, torch.tensor([0.25, -0.5])
    logits[3, 4] = 9.0  # stronger, but too far from the first place
    places = torch.tensor([[23.0, 15.0], [39.0, 31.0], [40.0, 32.0]])
    expected = [[(3 + 0.25) * 8, (2 - 0.5) * 8], [4 * 8, 3 * 8], [4 * 8, 3 * 8]]
    boxes, heat = places.repeat(1, 2)[None], torch.stack([logits, -logits])[None]
    offsets = offsets.repeat(2, 1, 1)[None]
    top_left, bottom_right = refine_corners(boxes, heat, offsets, 8)[0].split(2, dim=1)
    assert top_left.tolist() == expected and bottom_right.tolist() != expected
    one_cell = heat[..., 2:3, 3:4], offsets[..., 2:3, 3:4]
    assert refine_corners(boxes[:, :1], *one_cell, 64)[0].tolist() == [[16.0, -32.0, 16.0, -32.0]]


def right_outputs(size: int, boxes: Tensor, labels: Tensor, level: int, error: float) -> list[LevelOutputs]:
    """Every box, `error` strides off, is found by the cell at its middle on one level; corners are right."""
    outputs = []
    for number, stride in enumerate(STRIDES):
        side = size // stride
        classes, points = torch.full((1, CLASSES, side, side), -9.0), torch.zeros(1, 18, side, side)
        heat, offsets = torch.full((1, 2, side, side), -9.0), torch.zeros(1, 4, side, side)
        for box, label in zip(boxes, labels, strict=True):
            column, row = ((box[:2] + box[2:]) / 2 / stride).long().tolist()
            if number == level:
                classes[0, label, row, column] = 3.0
                cell = torch.tensor([column, row, column, row])
                points[0, :4, row, column] = (box / stride - cell + error)[[1, 0, 3, 2]]
            for kind, corner in enumerate(box.view(2, 2)):
                x, y = (corner / stride).round().clamp(max=side - 1).long().tolist()
                heat[0, kind, y, x] = 5.0
                offsets[0, 2 * kind : 2 * kind + 2, y, x] = corner / stride - torch.tensor([x, y])
        outputs.append(LevelOutputs(classes, points, points, heat, offsets, classes, None))
    return outputs


@pytest.mark.parametrize(("level", "error"), [(0, 0.0), (1, 0.0), (1, 0.2), (2, 0.1), (3, 0.1)])
def test_outputs_that_are_right_become_the_boxes(level: int, error: float) -> None:
    boxes = torch.tensor([[20.0, 30.0, 101.0, 94.0], [150.0, 140.0, 333.0, 351.0]])
    labels = torch.tensor([2, 0])
    outputs = right_outputs(384, boxes, labels, level, error)
    meta = {"img_shape": (384, 384), "scale_factor": (2.0, 4.0)}
    (found,) = detect(outputs, STRIDES, [meta], {**TEST, "min_bbox_size": 0}, rescale=True)
    order = found.labels.argsort(descending=True)
    torch.testing.assert_close(found.bboxes[order], boxes / torch.tensor([2.0, 4.0, 2.0, 4.0]))
    assert found.labels[order].tolist() == labels.tolist()
    assert found.scores.tolist() == pytest.approx([torch.tensor(3.0).sigmoid().item()] * 2)


def test_boxes_end_at_the_image_and_those_without_area_or_covered_ones_are_dropped() -> None:
    outputs = right_outputs(384, torch.tensor([[-40.0, 8.0, 72.0, 80.0]]), torch.tensor([1]), 0, 0.0)
    first = outputs[0]
    first.class_logits[0, 1, 6, 3] = 2.0  # nearly the same box once more
    first.refined_offsets[0, :4, 6, 3] = first.refined_offsets[0, :4, 5, 2] - 1
    first.class_logits[0, 2, 20, 20] = 4.0  # a point, not a box
    meta = {"img_shape": (384, 64), "scale_factor": (1.0, 1.0)}
    (found,) = detect(outputs, STRIDES, [meta], {**TEST, "min_bbox_size": 0}, rescale=False)
    assert found.bboxes.tolist() == [[0.0, 8.0, 64.0, 80.0]] and found.labels.tolist() == [1]


def test_points_keep_their_precision_under_autocast() -> None:
    head = small_head().eval()
    layer, features = torch.nn.Conv2d(4, 2, 1), 100 * torch.randn(1, 4, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert layer(features).dtype == torch.bfloat16
        exact = apply_in_float32(layer, features)
        outputs = head([torch.randn(one.shape) for one in maps(128)])
    torch.testing.assert_close(exact, layer(features))
    precise = (one for level in outputs for one in (level.first_offsets, level.refined_offsets, level.corner_offsets))
    assert {one.dtype for one in precise} == {torch.float32}


def test_giou_of_inclusive_boxes() -> None:
    """By hand: 2x2 and 2x1 pixels that share one pixel, inside a hull of 3x2."""
    loss = InclusiveGIoULoss(loss_weight=3.0)
    predicted, target = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[1.0, 1.0, 2.0, 1.0]])
    assert float(loss(predicted, target, avg_factor=2)) == pytest.approx(3 * (1 - (1 / 5 - 1 / 6)) / 2)
    degenerate = torch.zeros(1, 4, requires_grad=True)
    loss(degenerate, torch.tensor([[-1.0, -2.0, 3.0, 1.0]]), avg_factor=1).backward()
    assert degenerate.grad is not None and degenerate.grad.all()


def test_a_box_whose_corners_are_swapped_is_pulled_back() -> None:
    swapped = torch.tensor([[4.0, 0.0, -3.0, 2.0]], requires_grad=True)
    InclusiveGIoULoss()(swapped, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), avg_factor=1).backward()
    assert swapped.grad is not None
    assert swapped.grad[0, 0] > 0.1 and swapped.grad[0, 2] < -0.1


def test_any_number_of_images_makes_a_batch() -> None:
    with torch.no_grad():
        outputs = small_head().eval()([torch.randn(33, *one.shape[1:]) for one in maps(128)])
    assert {len(level.refined_offsets) for level in outputs} == {33}


def test_foreground_loss_normalises_positives_by_their_weights() -> None:
    logits, weights = torch.tensor([0.0, 1.0, -1.0]), torch.tensor([0.5, 0.25, 0.0])
    chance = logits.sigmoid()
    positive = -(chance[:2].log() * (1 - chance[:2]) ** 2 * weights[:2]).sum() / 0.75
    negative = -(1 - chance[2]).log() * chance[2] ** 2 / 2
    torch.testing.assert_close(ForegroundFocalLoss()(logits, weights), 0.25 * positive + 0.75 * negative)


def test_points_that_are_no_odd_square_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_points is 8; it must be the square of an odd number"):
        small_head(num_points=8)


@pytest.mark.parametrize(
    ("name", "million_params", "billion_macs"),
    [("reppoints-v2_swin-t_bifpn_3x_coco", 45, 283), ("mask-reppoints-v2_swin-t_bifpn_3x_coco", 47, 292)],
)
def test_published_sizes_are_met(name: str, million_params: int, billion_macs: int) -> None:
    """The official repository's, at 800x1280; masks are counted without the branch that draws them."""
    with torch.device("meta"):
        network = build_network(load_config(CONFIGS / f"{name}.py").model, 80)
    stats = model_stats(network, lambda model: run_detector(model, 800, 1280))
    assert stats.params / 1e6 == pytest.approx(million_params, rel=0.005)
    assert stats.macs / 1e9 == pytest.approx(billion_macs, rel=0.005)
    assert set(stats.parts) == {"backbone", "neck", "bbox_head"}
