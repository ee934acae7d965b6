"""Equations 1 and 2 of the paper, and that the running code costs what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from helpers.commands import command
from swin_dense.backbones import SwinTransformer
from swin_dense.errors import ConfigError
from swin_dense.stats import count_macs
from swin_dense.stats.complexity import Cost, attention_complexity


def test_the_code_costs_what_the_equations_say_and_windows_save_what_they_save() -> None:
    complexity = attention_complexity(112, 112, window=7, channels=128)
    assert complexity.saved == 40_124_743_680
    for cost in (complexity.global_attention, complexity.window_attention):
        assert cost.counted == cost.equation


def test_padding_of_the_last_windows_is_counted_on_top_of_the_equation() -> None:
    """10 x 13 tokens lie in 2 x 2 windows of 7 x 7."""
    padded, whole = (
        attention_complexity(*size, window=7, channels=8).window_attention for size in ((10, 13), (14, 14))
    )
    assert padded == Cost(equation=130 * (4 * 8**2 + 2 * 49 * 8), counted=whole.counted)


def macs(side: int, *, window: int) -> int:
    with torch.device("meta"):
        backbone = SwinTransformer(32, (2, 2), (2, 4), window, out_indices=(0, 1), fit_windows=True)
        return count_macs(backbone, lambda module: module(torch.empty(1, 3, side, side))).total


def test_our_backbone_grows_linearly_with_area_and_global_attention_quadratically() -> None:
    sides = (112, 224, 448)
    small, middle, large = (macs(side, window=7) for side in sides)
    assert middle == 4 * small and large == 4 * middle
    small, middle, large = (macs(side, window=side // 4) for side in sides)  # one window is the whole map
    quadratic = (middle - 4 * small) // 12  # of a * area + b * area^2, the second part at the smallest side
    assert quadratic > 0
    assert large == 16 * (small - quadratic) + 256 * quadratic


def test_the_command_shows_both_and_draws_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("stats", "--complexity", "--size", "112x112", "--window", "7", "--channels", "128")
    assert command(*words, "--plot", str(tmp_path / "cost.svg"), "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == attention_complexity(112, 112, 7, 128).to_dict()
    assert "40,124,743,680" in captured.err
    assert (tmp_path / "cost.svg").read_text().count("<path") > 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--complexity", "--window", "0"), "window=0: must be at least 1"),
        (("--complexity", "--plot", "cost.doc"), ".png, .svg or .pdf"),
        (("swin_tiny", "--complexity"), "not taken with --complexity"),
        (("swin_tiny", "--window", "7"), "--window: only taken with --complexity"),
        ((), "stats takes CONFIG or VARIANT, or --complexity"),
    ],
)
def test_a_mistake_is_named(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("stats", *words) == 2
    assert message in capsys.readouterr().err


def test_a_size_below_one_is_refused_in_python() -> None:
    with pytest.raises(ConfigError, match="channels=0"):
        attention_complexity(7, 7, 7, 0)
