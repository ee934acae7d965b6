"""The methods of attention that the benchmark compares compute what they are said to compute."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.commands import command
from helpers.random_values import randomised
from swin_dense.backbones import SwinTransformer
from swin_dense.backbones.attention import WindowAttention
from swin_dense.benchmark.attention import (
    METHODS,
    AttentionSettings,
    benchmark_attention,
    blocked_sliding_attention,
    naive_sliding_attention,
    sliding_bias,
)
from swin_dense.errors import ConfigError

GRIDS = [(14, 14), (9, 16), (3, 5), (1, 1)]


def dense_masked_attention(qkv: Tensor, attention: WindowAttention) -> Tensor:
    """Attention of all tokens to all, with nothing but those near enough left by a mask."""
    height, width, side = *qkv.shape[1:3], attention.window[0]
    query, key, value = qkv.flatten(1, 2).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) / qkv.shape[-1] ** 0.5
    places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).flatten(1)
    offset = places[:, None, :] - places[:, :, None]  # from query to key
    near = ((offset >= -(side // 2)) & (offset < side - side // 2)).all(0)
    row = ((side - 1 - offset[0]) * (2 * side - 1) + side - 1 - offset[1]).where(near, 0)
    scores = (scores + attention.relative_position_bias_table[row].permute(2, 0, 1)).masked_fill(~near, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2).reshape(*qkv.shape[:3], -1)


@pytest.mark.parametrize("side", [7, 4, 1])
@pytest.mark.parametrize("grid", GRIDS)
def test_sliding_windows_equal_dense_attention_with_a_mask(side: int, grid: tuple[int, int]) -> None:
    attention = randomised(WindowAttention(8, 2, (side, side)))
    qkv = attention.projected(torch.randn(2, *grid, 8, generator=torch.Generator().manual_seed(2)))
    expected = dense_masked_attention(qkv, attention)
    for slide in (naive_sliding_attention, blocked_sliding_attention):
        torch.testing.assert_close(slide(qkv, sliding_bias(attention)), expected, rtol=1e-5, atol=1e-5)


def backbone(**options: Any) -> SwinTransformer:
    model: SwinTransformer = randomised(SwinTransformer(8, (2, 2), (1, 2), 4, out_indices=(0, 1), **options))
    return model


@pytest.mark.parametrize("size", [(64, 64), (45, 70), (3, 5)])
@torch.no_grad()
def test_padding_and_the_cyclic_shift_are_the_backbone_itself(size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    unshifted = backbone(shift_windows=False)
    for name, model in (("padding", backbone()), ("cyclic", backbone()), ("windows", unshifted), ("plan", backbone())):
        expected = model(images)[1]
        tokens = METHODS[name].run(model, images)
        found = model.norm1(tokens).permute(0, 3, 1, 2)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_a_pair_of_attentions_is_that_of_the_blocks() -> None:
    stage = backbone().layers[0]
    tokens = torch.randn(2, 11, 18, 8, generator=torch.Generator().manual_seed(2))
    found = {name: METHODS[name].pair(stage, tokens) for name in METHODS}
    for name in ("padding", "plan"):
        torch.testing.assert_close(found[name], found["cyclic"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["sliding-naive"], found["sliding-blocks"], rtol=1e-5, atol=1e-5)
    for name in ("windows", "sliding-naive"):
        assert (found[name] - found["cyclic"]).abs().max() > 0.01


def test_prints_the_table_of_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--device cpu --variants swin_nano --size 64 --batch-size 1 --repeats 1"
    assert command("benchmark", "attention", *words.split(), "--json") == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert record["benchmark"] == "attention" and list(record["methods"]) == list(METHODS)
    for one in record["methods"].values():
        assert len(one["stage_ms"]) == 4 and min(spread["median"] for spread in one["stage_ms"]) > 0
        assert one["images_per_second"]["swin_nano"] > 0
    assert "sliding window (naive)" in printed.err and "swin_nano" in printed.err


def test_what_there_is_not_is_refused() -> None:
    for settings, message in (
        ({"methods": ["slidign-naive"]}, "sliding-naive"),
        ({"variants": ["swin_tin"]}, "swin_tiny"),
        ({"variants": ["swin3d_nano"]}, "swin3d_nano has no window attention of the form"),
        ({"variants": ["swin_mlp_tiny_c24"]}, "swin_mlp_tiny_c24 has no window attention"),
    ):
        with pytest.raises(ConfigError, match=message):
            benchmark_attention(AttentionSettings(device="cpu", **settings))
