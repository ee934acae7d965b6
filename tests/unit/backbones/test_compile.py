"""Compiled, the backbone is one graph for images of any size, and computes what it computes otherwise."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from helpers.compiling import compiled_copy
from helpers.random_values import randomised
from swin_dense.backbones import SwinTransformer, rows

SIZES = [(2, 64, 64), (2, 75, 130), (3, 64, 96), (2, 97, 64), (4, 70, 70), (3, 111, 65), (2, 128, 64), (5, 66, 101)]


def small() -> SwinTransformer:
    return randomised(SwinTransformer(8, (2, 1), (1, 2), 4, out_indices=(0, 1)))


def random_images(batch: int, *size: int) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(2))


def maps_and_gradients(model: nn.Module, images: Tensor) -> list[Tensor]:
    model.zero_grad()
    maps = model(images)
    sum((found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum() for found in maps).backward()
    return [*maps, *(parameter.grad for parameter in model.parameters())]


def test_one_graph_serves_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LEAST_VALUES", 6000)  # from which kernels serve elsewhere: some sizes have fewer
    model = small()
    model.layers[0].activation_checkpointing = True
    compiled, graphs = compiled_copy(model)
    for size in SIZES:
        images = random_images(*size)
        pairs = zip(maps_and_gradients(model, images), maps_and_gradients(compiled, images), strict=True)
        assert all((right - ours).abs().max() <= 1e-5 * right.abs().max() for right, ours in pairs)
    assert len(graphs) == 1


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (33, 500), (97, 130), (64, 64)])
def test_the_form_for_compilers_equals_that_of_window_plans(size: tuple[int, int]) -> None:
    model, images = randomised(SwinTransformer(8, (2, 1, 3, 2), (1, 2, 2, 4), 7)), random_images(2, *size)
    with torch.no_grad():
        pairs = zip(model(images), model._maps(images, model._grids(size)), strict=True)
        assert all((right - ours).abs().max() <= 1e-5 * right.abs().max() for right, ours in pairs)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_compiling_leaves_names_copies_and_pickles_alone(
    duplicate: Callable[[SwinTransformer], SwinTransformer],
) -> None:
    model, images = small(), random_images(2, 64, 75)
    names = list(model.state_dict())
    with torch.no_grad():
        expected = model(images)
        model.compile(backend="eager", dynamic=False)
        model(images)
        assert list(model.state_dict()) == names
        assert all(torch.equal(a, b) for a, b in zip(duplicate(model)(images), expected, strict=True))
