"""The published sizes of detectors: parameters in millions and multiply-adds in billions at 1280x800."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from swin_dense.config import load_config
from swin_dense.openmmlab.counting import run_detector
from swin_dense.openmmlab.detection import build_network
from swin_dense.stats import ModelStats, model_stats

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "detection"
COCO_CLASSES = 80
HEIGHT, WIDTH = 800, 1280

PUBLISHED = [
    # The Swin paper, tables 2a and 2b, and the official repository.
    ("mask-rcnn_swin-t_fpn_3x_coco", 48, 267),
    ("mask-rcnn_swin-s_fpn_3x_coco", 69, 359),
    ("cascade-mask-rcnn_r50_fpn_3x_coco", 82, 739),
    ("cascade-mask-rcnn_swin-t_fpn_3x_coco", 86, 745),
    ("cascade-mask-rcnn_x101-32x4d_fpn_3x_coco", 101, 819),
    ("cascade-mask-rcnn_swin-s_fpn_3x_coco", 107, 838),
    ("cascade-mask-rcnn_x101-64x4d_fpn_3x_coco", 140, 972),
    ("cascade-mask-rcnn_swin-b_fpn_3x_coco", 145, 982),
    ("atss_r50_fpn_3x_coco", 32, 205),
    ("atss_swin-t_fpn_3x_coco", 36, 215),
]
"""Name of the config, parameters and multiply-adds."""


@cache
def shipped(name: str) -> Any:
    """The network of a shipped config, without values; recipes of another length have the same."""
    model = load_config(CONFIGS / f"{name}.py").model
    model["backbone"].pop("drop_path_rate", None)
    return built(json.dumps(model))


@cache
def built(model: str) -> Any:
    with torch.device("meta"):
        return build_network(json.loads(model), COCO_CLASSES).eval()


@cache
def counted(network: nn.Module) -> ModelStats:
    return model_stats(network, lambda network: run_detector(network, HEIGHT, WIDTH))


def stats(name: str) -> ModelStats:
    return counted(shipped(name))


def assert_met(counted: float, published: float) -> None:
    """Within 0.5 %, or equal once it is rounded as the published figure is."""
    assert round(counted) == published or counted == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize(("name", "million_params", "billion_macs"), PUBLISHED)
def test_published_sizes_are_met(name: str, million_params: int, billion_macs: int) -> None:
    counted = stats(name)
    assert_met(counted.params / 1e6, million_params)
    assert counted.macs / 1e9 == pytest.approx(billion_macs, rel=0.005)
    assert sum(part.macs for part in counted.parts.values()) == counted.macs
    assert sum(part.params for part in counted.parts.values()) == counted.params


@pytest.mark.parametrize(("backbone", "million_params", "billion_macs"), [("swin-t", 110, 172), ("r50", 106, 166)])
def test_sparse_rcnn_has_the_published_size_plus_the_products_that_no_layer_makes(
    backbone: str, million_params: int, billion_macs: int
) -> None:
    """Three ways to count: all products; what layers make; and that with what else the published counter sees."""
    name = f"sparse-rcnn_{backbone}_fpn_3x_coco"
    counted = stats(name)
    assert_met(counted.params / 1e6, million_params)
    assert counted.macs / 1e9 == pytest.approx({"swin-t": 175.56, "r50": 168.33}[backbone], rel=1e-4)
    proposals, width, hidden, area, stages = 300, 256, 64, 7 * 7, 6
    self_attention = 4 * width**2 + 2 * proposals * width
    dynamic_convolutions = 2 * area * width * hidden
    unseen = stages * proposals * (self_attention + dynamic_convolutions)
    assert unseen / 1e9 == pytest.approx(3.64, rel=1e-3)
    seen = counted.macs - unseen + (elementwise(shipped(name)) if backbone == "r50" else 0)
    assert seen / 1e9 == pytest.approx(billion_macs, rel=0.005)


def test_the_published_count_of_resnets_includes_norms_activations_and_biases() -> None:
    """To the last digit, where no layer but convolutions and linear ones makes products."""
    name = "cascade-mask-rcnn_r50_fpn_3x_coco"
    assert round((stats(name).macs + elementwise(shipped(name))) / 1e9) == 739


def test_reppoints_v2_on_resnet_has_the_published_size_with_norms_activations_and_biases() -> None:
    """Without them it counts 272.2 G, 0.6 % less than published."""
    name = "reppoints-v2_r50_bifpn_3x_coco"
    assert_met(stats(name).params / 1e6, 42)
    assert stats(name).macs / 1e9 == pytest.approx(272.25, rel=1e-4)
    assert (stats(name).macs + elementwise(shipped(name))) / 1e9 == pytest.approx(274, rel=0.005)


def test_swin_l_has_the_size_of_the_convnext_paper_plus_the_products_of_attention() -> None:
    """Like UperNet's there: 1,382 G for Cascade Mask R-CNN."""
    name = "cascade-mask-rcnn_swin-l_fpn_3x_coco"
    assert stats(name).macs / 1e9 == pytest.approx(1391.56, rel=1e-4)
    assert products_of_layers(shipped(name)) / 1e9 == pytest.approx(1382, rel=0.001)


def test_boxes_alone_cost_what_boxes_and_masks_cost_without_the_mask_head() -> None:
    for alone, both in (("faster-rcnn", "mask-rcnn"), ("cascade-rcnn", "cascade-mask-rcnn")):
        parts = dict(stats(f"{both}_swin-t_fpn_3x_coco").parts)
        del parts["roi_head.mask_head"]
        assert stats(f"{alone}_swin-t_fpn_3x_coco").parts == parts


def test_the_page_names_every_config_with_its_size() -> None:
    page = (CONFIGS.parents[1] / "docs" / "detection.md").read_text()
    stated = re.findall(r"^\| `([\w-]+_coco)` \| ([\d.]+) M \| ([\d.]+) G \|", page, re.MULTILINE)
    counted = {path.stem: stats(path.stem) for path in CONFIGS.glob("*.py")}
    assert {name: (f"{one.params / 1e6:.1f}", f"{one.macs / 1e9:.1f}") for name, one in counted.items()} == {
        name: (params, macs) for name, params, macs in stated
    }


def products_of_layers(network: nn.Module) -> int:
    """Multiply-adds of convolutions and linear layers that are called as layers."""
    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)

    def count(layer: nn.Module, maps: torch.Tensor, out: torch.Tensor) -> int:
        positions = maps if isinstance(layer, nn.ConvTranspose2d) else out  # each input or output meets the kernel
        return positions.numel() * layer.weight[0].numel()

    return _sum_over_layers(network, layers, count)


def elementwise(network: nn.Module) -> int:
    """What counters of layers add: two for each value that is normalised, one for each activation and each bias."""
    norms = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
    layers = (*norms, nn.ReLU, nn.MaxPool2d, nn.Conv2d, nn.ConvTranspose2d)

    def count(layer: nn.Module, maps: torch.Tensor, out: torch.Tensor) -> int:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            return 0 if layer.bias is None else out.numel()
        return maps.numel() * (2 if isinstance(layer, norms) else 1)

    return _sum_over_layers(network, layers, count)


def _sum_over_layers(network: nn.Module, layers: tuple[type[nn.Module], ...], count: Any) -> int:
    with _hooked(network, layers, count) as counts, torch.no_grad():
        run_detector(network, HEIGHT, WIDTH)
    return sum(counts)


@contextmanager
def _hooked(network: nn.Module, layers: tuple[type[nn.Module], ...], count: Any) -> Iterator[list[int]]:
    counts: list[int] = []

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        counts.append(count(layer, inputs[0], out))

    hooks = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, layers)]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
