"""The relative position bias looks each offset up in the official table; absolute embeddings are resized."""

from __future__ import annotations

import itertools

import pytest
import torch

from swin_dense.backbones.attention import relative_position_bias, relative_position_count
from swin_dense.backbones.patches import resized_position_embedding


@pytest.mark.parametrize("window", [(1, 1), (3, 3), (2, 4), (2, 3, 2)])
def test_bias_is_the_table_entry_of_the_offset(window: tuple[int, ...]) -> None:
    table = torch.randn(relative_position_count(window), 2, requires_grad=True)
    bias = relative_position_bias(table, window)
    entries = table.view(*(2 * side - 1 for side in window), 2)
    places = list(itertools.product(*(range(side) for side in window)))
    for (i, query), (j, key) in itertools.product(enumerate(places), repeat=2):
        offset = tuple(a - b + side - 1 for a, b, side in zip(query, key, window, strict=True))
        assert torch.equal(bias[:, i, j], entries[offset])


def test_every_entry_of_the_table_is_used() -> None:
    table = torch.zeros(relative_position_count((3, 4)), 2, requires_grad=True)
    relative_position_bias(table, (3, 4)).sum().backward()
    assert (table.grad > 0).all() and table.grad.sum() == 2 * 12 * 12


def test_bias_first_used_in_inference_mode_can_be_trained() -> None:
    table = torch.randn(relative_position_count((2, 5)), 1, requires_grad=True)
    with torch.inference_mode():
        relative_position_bias(table, (2, 5))
    relative_position_bias(table, (2, 5)).sum().backward()
    assert table.grad is not None


def test_absolute_embedding_is_kept_at_its_own_size_and_resized_at_others() -> None:
    embedding = torch.randn(1, 8, 6, 6)
    assert torch.allclose(resized_position_embedding(embedding, (6, 6)), embedding.permute(0, 2, 3, 1), atol=1e-6)
    ramp = torch.linspace(0, 1, 6).view(1, 1, 6, 1).expand(1, 1, 6, 6)
    resized = resized_position_embedding(ramp, (12, 3))
    assert resized.shape == (1, 12, 3, 1)
    assert (resized.diff(dim=1) > 0).all() and torch.allclose(resized.diff(dim=2), torch.zeros(()), atol=1e-6)
