"""Whole detectors in plain form find what mmdet finds."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from helpers.random_values import randomised
from swin_dense.config import load_config
from swin_dense.export.detections import ExportedDetector, detection_deviations
from swin_dense.export.graph import trace
from swin_dense.export.models import Preprocessing, RawImages
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.openmmlab.plain import PlainDetector
from swin_dense.openmmlab.plain.boxes import Candidates, suppressed
from swin_dense.openmmlab.plain.operators import RunningMaximum
from swin_dense.tasks.detection import TASK

DEMO = Path(__file__).resolve().parents[3] / "configs" / "demo"
SMALL = {"embed_dim": 8, "depths": (1, 2), "num_heads": (1, 1), "out_indices": (0, 1)}
SYSTEMS = ["mask-rcnn", "cascade-mask-rcnn", "faster-rcnn", "cascade-rcnn", "atss", "sparse-rcnn", "reppoints-v2"]
CLASSES = 3


@cache
def detector(system: str) -> OpenMMLabDetector:
    """A small one with random weights that count, which keeps its best detections whatever their scores."""
    model = copy.deepcopy(load_config(DEMO / f"{system}_swin-nano_shapes.py").model)
    if system != "reppoints-v2":  # its neck needs three levels
        model["backbone"].update(SMALL)
        model["neck"].update(num_outs=2)
    for head in (model.get("rpn_head"), model.get("bbox_head")):
        if head and "anchor_generator" in head:
            head["anchor_generator"]["strides"] = head["anchor_generator"]["strides"][:2]
    test = model["test_cfg"].get("rcnn") or model["test_cfg"]
    test.update({"score_thr": 0.1} if "score_thr" in test else {}, max_per_img=25)
    built = OpenMMLabDetector(model, CLASSES)
    randomised(built.network)
    return built.eval()


def whole(model: OpenMMLabDetector) -> RawImages:
    return RawImages(PlainDetector(model.network), replace(TASK.preprocessing(model.network), divisor=1)).eval()


def pictures(batch: int, height: int, width: int) -> Tensor:
    coarse = 255 * torch.rand(batch, 3, 9, 9, generator=torch.Generator().manual_seed(height))
    return interpolate(coarse, (height, width), mode="bilinear").round()


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_plain_form_finds_what_mmdet_finds(system: str) -> None:
    model = detector(system)
    images = pictures(2, 61, 90)
    with torch.no_grad():
        plain = ExportedDetector(whole(model), 0.5 if model.has_masks else None)
        (row,) = detection_deviations(model, plain, [images])
    assert row.expected > 20
    assert row.is_within(1e-6), row


@pytest.mark.parametrize("dim", [2, 3])
def test_a_running_maximum_reaches_along_large_maps(dim: int) -> None:
    maps = torch.rand(1, 2, 70, 90, generator=torch.Generator().manual_seed(0))
    maps[:, 1].select(dim - 1, 0).fill_(2.0)  # which all cells of one of the maps see
    maps[:, 1].select(dim - 1, -1).fill_(3.0)
    assert torch.equal(RunningMaximum(dim, backwards=False)(maps), maps.cummax(dim)[0])
    assert torch.equal(RunningMaximum(dim, backwards=True)(maps), maps.flip(dim).cummax(dim)[0].flip(dim))


class EveryPixel(nn.Module):
    """A detector whose candidates are the pixels of an image, each a box of its size at a place of its value."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        scores = images.flatten(2).mean(dim=1)
        boxes = scores[..., None] + torch.tensor([0.0, 0.0, 0.2, 0.2])
        return tuple(suppressed(Candidates(boxes, scores, (scores < 0.5).long()), 0.5, 5))


def test_a_program_finds_nothing_and_one_object_too() -> None:
    model = RawImages(EveryPixel(), Preprocessing((0.0,) * 3, (1.0,) * 3)).eval()
    graph = trace(model, (20, 30))
    assert graph.open_axes == ("batch", "height", "width"), graph.why_fixed
    many = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    one = torch.where(torch.arange(30).view(5, 6) == 7, 0.7, -0.5).expand(1, 3, 5, 6)
    for images, found in ((many, 5), (one, 1), (-torch.ones(1, 3, 1, 1), 0)):
        expected, given = model(images), graph.program.module()(images)
        assert int((expected[1][0] >= 0).sum()) == found
        for right, ours in zip(expected, given, strict=True):
            assert torch.equal(ours, right)
