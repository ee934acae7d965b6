"""Whole detectors in plain form find what mmdet finds."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from helpers.random_values import randomised
from swin_dense.config import load_config
from swin_dense.export.detections import ExportedDetector, detection_deviations
from swin_dense.export.models import RawImages
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.openmmlab.plain import PlainDetector
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
