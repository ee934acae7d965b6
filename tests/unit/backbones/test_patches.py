"""Patch embedding and merging: zero padding at the bottom and the right, and the official order of neighbours."""

from __future__ import annotations

import pytest
import torch

from swin_dense.backbones.patches import PatchEmbed, PatchMerging


def test_embedding_pads_with_zeros_to_whole_patches() -> None:
    embed = PatchEmbed(patch_size=(4, 4), in_channels=3, embed_dim=8)
    images = torch.randn(2, 3, 5, 10)
    padded = torch.zeros(2, 3, 8, 12)
    padded[:, :, :5, :10] = images
    assert embed(images).shape == (2, 2, 3, 8)
    assert torch.equal(embed(images), embed(padded))
    patch = padded[1, :, 4:8, 8:12].flatten()
    expected = embed.norm(embed.proj.weight.flatten(1) @ patch + embed.proj.bias)
    assert torch.allclose(embed(images)[1, 1, 2], expected, atol=1e-5)


def test_merging_joins_neighbours_in_the_official_order() -> None:
    merging = PatchMerging(channels=2)
    torch.nn.init.normal_(merging.norm.weight)
    torch.nn.init.normal_(merging.norm.bias)
    tokens = torch.randn(2, 4, 6, 2)
    corner = tokens[1, 2:4, 4:6]
    joined = torch.cat([corner[0, 0], corner[1, 0], corner[0, 1], corner[1, 1]])
    expected = merging.norm(joined) @ merging.reduction.weight.T
    assert torch.allclose(merging(tokens)[1, 1, 2], expected, atol=1e-6)


def test_merging_pads_odd_grids_with_zeros() -> None:
    merging = PatchMerging(channels=2)
    tokens = torch.randn(1, 3, 5, 2)
    padded = torch.zeros(1, 4, 6, 2)
    padded[:, :3, :5] = tokens
    assert merging(tokens).shape == (1, 2, 3, 4)
    assert torch.equal(merging(tokens), merging(padded))


@pytest.mark.parametrize("sides", [(4, 4), (2, 4, 4)])
def test_the_matrix_product_of_gpus_equals_the_convolution(sides: tuple[int, ...]) -> None:
    embed = PatchEmbed(patch_size=sides, in_channels=3, embed_dim=8)
    images = torch.randn(2, 3, *(6, 8, 12)[-len(sides) :])
    counts = [length // side for length, side in zip(images.shape[2:], sides, strict=True)]
    for one in (images, images.movedim(1, -1).contiguous().movedim(-1, 1)):  # channels last in memory, too
        expected = embed.proj(one).movedim(1, -1)
        assert torch.allclose(embed._products(one, counts), expected, atol=1e-5)
