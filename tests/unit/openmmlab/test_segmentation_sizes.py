"""The published sizes of UperNet: parameters in millions and multiply-adds in billions."""

from __future__ import annotations

import re
from functools import cache, partial
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch

from swin_dense.backbones import VARIANTS
from swin_dense.config import load_config
from swin_dense.openmmlab.counting import run_segmenter
from swin_dense.openmmlab.segmentation import build_network
from swin_dense.stats import ModelStats, count_parameters, model_stats

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "segmentation"
ADE20K_CLASSES = 150


@cache
def shipped(name: str) -> Any:
    """The network of a shipped config, without values."""
    config = load_config(CONFIGS / f"{name}.py")
    with torch.device("meta"):
        return build_network(config.model, ADE20K_CLASSES)


def stats(letter: str, crop: int, height: int, width: int) -> ModelStats:
    return stats_of(f"upernet_swin-{letter}_{crop}_160k_ade20k", height, width)


def stats_of(name: str, height: int, width: int) -> ModelStats:
    return model_stats(shipped(name), partial(run_segmenter, height=height, width=width))


@pytest.mark.parametrize(
    ("letter", "crop", "height", "width", "million_params", "billion_macs"),
    [
        ("t", 512, 512, 2048, 60, 945),
        ("s", 512, 512, 2048, 81, 1038),
        ("b", 512, 512, 2048, 121, 1188),
        ("b", 640, 640, 2560, 121, 1841),
    ],
)
def test_published_sizes_are_met(
    letter: str, crop: int, height: int, width: int, million_params: float, billion_macs: float
) -> None:
    counted = stats(letter, crop, height, width)
    assert counted.params / 1e6 == pytest.approx(million_params, rel=0.005)
    assert counted.macs / 1e9 == pytest.approx(billion_macs, rel=0.001)
    assert sum(part.macs for part in counted.parts.values()) == counted.macs


def test_swin_l_has_the_size_of_the_convnext_paper_plus_the_products_of_attention() -> None:
    """2,468 G there; the Swin paper's 3,230 G is no count at this size, nor at any other that it uses."""
    counted = stats("l", 640, 640, 2560)
    assert counted.params / 1e6 == pytest.approx(234, rel=0.005)
    assert counted.macs / 1e9 == pytest.approx(2482.3, rel=1e-4)
    assert (counted.macs - products_of_attention("swin_large", 640, 2560)) / 1e9 == pytest.approx(2468, rel=0.001)
    assert round(3230e9 / counted.macs, 1) == 1.3


def test_the_page_names_every_config_with_its_size() -> None:
    page = (CONFIGS.parents[1] / "docs" / "segmentation.md").read_text()
    row = r"^\| `(upernet_swin\w*-[tsbl]_(512|640)\w*)` \| ([\d.]+) M \| (\d+) G \|"
    stated = {(name, int(crop)): sizes for name, crop, *sizes in re.findall(row, page, re.MULTILINE)}
    assert {name for name, _ in stated} == {path.stem for path in CONFIGS.glob("*.py")}
    for (name, crop), sizes in stated.items():
        counted = stats_of(name, crop, 4 * crop)
        assert sizes == [f"{counted.params / 1e6:.1f}", f"{counted.macs / 1e9:.0f}"]


def products_of_attention(variant: str, height: int, width: int) -> int:
    """`q @ k` and `attention @ v`: every token, of the padding too, with the tokens of its window."""
    swin, total = VARIANTS[variant], 0
    for stage, depth in enumerate(swin.depths):
        rows, columns = (ceil(ceil(side / (4 * 2**stage)) / swin.window_size) for side in (height, width))
        tokens = rows * columns * swin.window_size**2
        total += depth * 2 * tokens * swin.window_size**2 * swin.embed_dim * 2**stage
    return total


def test_the_auxiliary_head_has_parameters_but_does_not_run() -> None:
    counted = stats("t", 512, 64, 64)
    assert not any(name.startswith("auxiliary_head") for name in counted.parts)
    auxiliary = count_parameters(shipped("upernet_swin-t_512_160k_ade20k").auxiliary_head)
    # One convolution of 3x3 with a batch norm, and the classifier with its biases.
    assert auxiliary == 384 * 256 * 9 + 2 * 256 + 256 * ADE20K_CLASSES + ADE20K_CLASSES
    assert counted.params == sum(part.params for part in counted.parts.values()) + auxiliary
