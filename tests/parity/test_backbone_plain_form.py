"""The backbone equals the plain form of the paper: pad, roll, partition, mask, reverse, roll back, in every block.

The plain form is written here once, as functions of a state dict, and knows nothing of window plans or groups.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers.random_values import randomised
from swin_dense.backbones import SwinTransformer

Weights = dict[str, Tensor]


def plain_backbone(images: Tensor, weights: Weights, depths: tuple[int, ...], window: int) -> list[Tensor]:
    images = functional.pad(images, (0, -images.shape[-1] % 4, 0, -images.shape[-2] % 4))
    tokens = functional.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=4)
    tokens = norm(tokens.permute(0, 2, 3, 1), weights, "patch_embed.norm")
    maps = []
    for stage, depth in enumerate(depths):
        for block in range(depth):
            tokens = plain_block(tokens, weights, f"layers.{stage}.blocks.{block}", window, window // 2 * (block % 2))
        maps.append(norm(tokens, weights, f"norm{stage}").permute(0, 3, 1, 2))
        if stage < len(depths) - 1:
            tokens = plain_merging(tokens, weights, f"layers.{stage}.downsample")
    return maps


def plain_block(tokens: Tensor, weights: Weights, name: str, window: int, shift: int) -> Tensor:
    height, width = tokens.shape[1:3]
    x = norm(tokens, weights, f"{name}.norm1")
    x = functional.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    x = x.roll((-shift, -shift), (1, 2))
    attended = [
        [
            plain_window(x[:, top : top + window, left : left + window], weights, f"{name}.attn", mask)
            for left, mask in row
        ]
        for top, row in windows_and_masks(x.shape[1], x.shape[2], window, shift)
    ]
    x = torch.cat([torch.cat(row, dim=2) for row in attended], dim=1)
    tokens = tokens + x.roll((shift, shift), (1, 2))[:, :height, :width]
    hidden = functional.gelu(linear(norm(tokens, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1"))
    return tokens + linear(hidden, weights, f"{name}.mlp.fc2")


def windows_and_masks(
    height: int, width: int, window: int, shift: int
) -> list[tuple[int, list[tuple[int, Tensor | None]]]]:
    """Corners of the windows of a shifted grid with their masks, by the nine numbered regions of the official code."""
    regions = torch.zeros(height, width)
    bounds = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate((rows, columns) for rows in bounds for columns in bounds):
        regions[rows, columns] = number
    grid = []
    for top in range(0, height, window):
        row: list[tuple[int, Tensor | None]] = []
        for left in range(0, width, window):
            inside = regions[top : top + window, left : left + window].flatten()
            row.append((left, -100.0 * (inside[:, None] != inside[None, :]) if shift else None))
        grid.append((top, row))
    return grid


def plain_window(tokens: Tensor, weights: Weights, name: str, mask: Tensor | None) -> Tensor:
    """Attention inside one (B, M, M, C) window, one head after the other, with the bias looked up pair by pair."""
    batch, window, _, channels = tokens.shape
    table = weights[f"{name}.relative_position_bias_table"]
    heads = table.shape[1]
    row, column = torch.arange(window * window).div(window, rounding_mode="floor"), torch.arange(window).repeat(window)
    down, right = row[:, None] - row[None, :], column[:, None] - column[None, :]
    bias = table[(down + window - 1) * (2 * window - 1) + right + window - 1]
    qkv = linear(tokens.flatten(1, 2), weights, f"{name}.qkv")
    outputs = []
    for head in range(heads):
        parts = [
            slice(start + head * channels // heads, start + (head + 1) * channels // heads)
            for start in (0, channels, 2 * channels)
        ]
        query, key, value = (qkv[:, :, part] for part in parts)
        scores = query @ key.transpose(1, 2) / (channels // heads) ** 0.5 + bias[:, :, head]
        outputs.append((scores if mask is None else scores + mask).softmax(-1) @ value)
    return linear(torch.cat(outputs, dim=-1), weights, f"{name}.proj").view(batch, window, window, channels)


def plain_merging(tokens: Tensor, weights: Weights, name: str) -> Tensor:
    tokens = functional.pad(tokens, (0, 0, 0, tokens.shape[2] % 2, 0, tokens.shape[1] % 2))
    quarters = [tokens[:, 0::2, 0::2], tokens[:, 1::2, 0::2], tokens[:, 0::2, 1::2], tokens[:, 1::2, 1::2]]
    return linear(norm(torch.cat(quarters, dim=-1), weights, f"{name}.norm"), weights, f"{name}.reduction")


def norm(tokens: Tensor, weights: Weights, name: str) -> Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def linear(tokens: Tensor, weights: Weights, name: str) -> Tensor:
    return functional.linear(tokens, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


@pytest.mark.parametrize("window", [4, 7])
@pytest.mark.parametrize("size", [(97, 130), (33, 500), (5, 7), (224, 224)])
def test_equals_the_plain_form(size: tuple[int, int], window: int) -> None:
    model = SwinTransformer(24, (2, 1, 3, 2), (1, 2, 4, 8), window)
    randomised(model)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = plain_backbone(images, model.state_dict(), (2, 1, 3, 2), window)
        in_groups = model(images)
    whole = model(images)
    for maps in (in_groups, whole):
        for ours, plain in zip(maps, expected, strict=True):
            assert ours.shape == plain.shape
            assert (ours - plain).norm() <= 1e-5 * plain.norm()
            assert (ours - plain).abs().max() <= 1e-5 * plain.abs().max()


def test_gradients_equal_those_of_the_plain_form() -> None:
    model = SwinTransformer(8, (2, 2), (1, 2), 4, out_indices=(0, 1)).double()
    randomised(model).train()
    images = torch.randn(2, 3, 41, 55, dtype=torch.float64, requires_grad=True)
    weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    expected = plain_backbone(images, weights, (2, 2), 4)
    cotangents = [torch.randn_like(plain) for plain in expected]
    wanted = torch.autograd.grad(expected, [images, *weights.values()], cotangents)
    found = torch.autograd.grad(model(images), [images, *model.parameters()], cotangents)
    for name, ours, plain in zip(["images", *weights], found, wanted, strict=True):
        assert (ours - plain).norm() <= 1e-10 * plain.norm(), name
