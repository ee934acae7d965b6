"""The plain form equals the backbone, and shows what its attention does."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from helpers.random_values import randomised
from swin_dense.backbones import SwinTransformer
from swin_dense.backbones.plain import PlainSwin


@pytest.mark.parametrize("size", [(97, 130), (33, 500), (5, 7), (1, 1), (64, 64)])
def test_gives_the_maps_of_the_backbone(size: tuple[int, int]) -> None:
    backbone = randomised(SwinTransformer(8, (2, 1, 3, 2), (1, 2, 2, 4), 7))
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, plain = backbone(images), PlainSwin(backbone)(images)
    for right, ours in zip(expected, plain, strict=True):
        assert ours.shape == right.shape
        assert (ours - right).abs().max() <= 1e-5 * right.abs().max()


def test_leaves_out_what_the_backbone_leaves_out() -> None:
    options = {"out_indices": (0, 2), "absolute_position_embedding": True, "pretrain_image_size": 32}
    backbone = randomised(SwinTransformer(8, (1, 2, 1, 1), (1, 2, 2, 4), 4, **options))
    images = torch.randn(1, 3, 45, 70, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for right, ours in zip(backbone(images), PlainSwin(backbone)(images), strict=True):
            torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-5)


def test_shares_the_parameters() -> None:
    backbone = SwinTransformer(8, (2, 2), (1, 2), 4, out_indices=(0, 1))
    own = {id(parameter) for parameter in backbone.parameters()}
    assert {id(parameter) for parameter in PlainSwin(backbone).parameters()} == own


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("options", [{}, {"version": 2}, {"mixing": "mlp"}], ids=str)
def test_is_what_pytorch_s_tracer_is_given_in_place_of_the_backbone(options: dict[str, Any]) -> None:
    """Of a plan of windows it would keep one size of image; TensorBoard's graphs and counters of operators trace so."""
    backbone = randomised(SwinTransformer(8, (2, 2), (1, 2), 4, out_indices=(0, 1), **options)).eval()
    traced, file = torch.jit.trace(backbone, torch.rand(2, 3, 45, 70)), io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    other = torch.rand(1, 3, 61, 33)
    for right, ours in zip(backbone(other), torch.jit.load(file)(other), strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("index", [0, 1])
def test_its_attention_weights_are_those_of_the_attention_module(index: int) -> None:
    backbone = randomised(SwinTransformer(16, (2,), (4,), 4, out_indices=(0,)))
    block = PlainSwin(backbone).blocks(0)[index]
    tokens = torch.randn(2, 7, 9, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        windows, mask = block.windows(tokens)
        weights, value = block.attention_weights(windows, mask, (4, 4))
        assert weights.shape == (2, 2, 3, 4, 16, 16)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 3, 4, 16))

        attended = block.attn.proj((weights @ value).transpose(-2, -3).flatten(-2))
        in_rows = windows.flatten(1, 2).transpose(0, 1)  # windows first, as the module takes them
        module_mask = torch.zeros(0, 16, 16) if mask is None else mask.flatten(0, 1)
        expected = block.attn(in_rows, module_mask).transpose(0, 1).unflatten(1, (2, 3))
    torch.testing.assert_close(attended, expected, rtol=1e-5, atol=1e-5)
    assert (mask is None) == (index == 0)
