"""What each row of the paper's Table 4 takes away is gone, in every form of the backbone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from helpers.random_values import randomised
from swin_dense.backbones import SwinTransformer, create_classifier
from swin_dense.backbones.attention import WindowAttention, fused_attention
from swin_dense.backbones.gridded_attention import plain_attention
from swin_dense.backbones.plain import PlainSwin
from swin_dense.errors import ConfigError

ROWS: dict[str, dict[str, bool]] = {
    "no shifting": {"shift_windows": False},
    "no position": {"relative_position_bias": False},
    "absolute": {"relative_position_bias": False, "absolute_position_embedding": True},
    "absolute + relative": {"absolute_position_embedding": True},
    "relative without appearance": {"appearance_term": False},
}
SIDE = 4
"""Of windows, in tokens."""


def backbone(depths: tuple[int, ...] = (2, 3), **options: object) -> SwinTransformer:
    heads = tuple(2**index for index in range(len(depths)))
    return randomised(SwinTransformer(8, depths, heads, SIDE, out_indices=range(len(depths)), **options))


def images(height: int = 45, width: int = 70, seed: int = 2) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", ROWS.values(), ids=ROWS)
class TestEveryRow:
    def test_has_the_same_maps_in_the_forms_for_exporters_and_compilers(self, options: dict[str, bool]) -> None:
        model = backbone(**options, pretrain_image_size=32)
        for size in ((45, 70), (64, 64), (3, 5)):
            with torch.no_grad():
                expected, plain = model(images(*size)), PlainSwin(model)(images(*size))
                rolled = model._maps(images(*size), model._grids(size))
            for right, *others in zip(expected, plain, rolled, strict=True):
                assert all((other - right).abs().max() <= 1e-5 * right.abs().max() for other in others)

    def test_differs_from_the_whole_model_with_the_same_weights(self, options: dict[str, bool]) -> None:
        model, whole = backbone(**options, pretrain_image_size=32), backbone()
        whole.load_state_dict(model.state_dict(), strict=False)
        with torch.no_grad():
            assert all((a - b).abs().max() > 0.1 for a, b in zip(model(images()), whole(images()), strict=True))

    def test_gives_every_parameter_a_gradient_compiled_too(self, options: dict[str, bool]) -> None:
        model = backbone((2,), **options, pretrain_image_size=32).train()
        compiled = copy.deepcopy(model)
        torch.compiler.reset()
        compiled.compile(backend="eager", fullgraph=True)
        for one in (model, compiled):
            maps = one(images())
            sum((found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum() for found in maps).backward()
        for right, ours in zip(model.parameters(), compiled.parameters(), strict=True):
            assert (right.grad - ours.grad).abs().max() <= 1e-4 * right.grad.abs().max()
        unused = [name for name, one in model.named_parameters() if not one.grad.any()]
        assert not unused

    def test_has_the_same_attention_on_the_grid_of_the_kernel(
        self, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("swin_dense.backbones.attention.gridded_attention", plain_attention)
        model = backbone(**options, pretrain_image_size=32)
        with torch.no_grad():
            expected = model(images())
            monkeypatch.setattr("swin_dense.backbones.block.kernel_serves", lambda *_: True)
            for right, ours in zip(expected, model(images()), strict=True):
                assert (ours - right).abs().max() <= 1e-5 * right.abs().max()


def changed_by_one_token(model: SwinTransformer, row: int, column: int) -> set[tuple[int, int]]:
    """Windows of the first map whose tokens change with one token, as (row, column)."""
    first = images(64, 96)
    second = first.clone()
    second[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1.0
    with torch.no_grad():
        changed = (model(first)[0] != model(second)[0]).any(1).any(0)
    places = changed.unflatten(1, (-1, SIDE)).unflatten(0, (-1, SIDE)).any(1).any(-1).nonzero()
    return {(int(down), int(across)) for down, across in places}


class TestWithoutShift:
    def test_no_information_crosses_windows_within_a_stage(self) -> None:
        model = backbone((6,), shift_windows=False)
        assert changed_by_one_token(model, 5, 6) == {(1, 1)}

    def test_with_shift_it_crosses_into_neighbours(self) -> None:
        assert {(1, 1), (2, 2)} < changed_by_one_token(backbone((6,)), 5, 6)

    def test_it_crosses_between_stages(self) -> None:
        model, one, other = backbone((2, 2), shift_windows=False), images(64, 64), images(64, 64)
        other[:, :, 0, 0] += 1.0
        with torch.no_grad():
            assert (model(one)[1] != model(other)[1]).any(1)[0, :SIDE, :SIDE].all()


def permuted_inside_windows(tokens: Tensor, order: Tensor) -> Tensor:
    """Tokens (B, H, W, C) with those of each window in another order."""
    windows = tokens.unflatten(2, (-1, SIDE)).unflatten(1, (-1, SIDE)).transpose(2, 3).flatten(3, 4)
    grid = windows[:, :, :, order].unflatten(3, (SIDE, SIDE)).transpose(2, 3)
    return grid.flatten(3, 4).flatten(1, 2)


class TestWithoutPosition:
    @pytest.mark.parametrize("commutes", [True, False])
    def test_the_maps_commute_with_a_permutation_of_tokens_inside_windows(self, commutes: bool) -> None:
        model = backbone((3,), shift_windows=False, relative_position_bias=not commutes)
        order = torch.randperm(SIDE * SIDE, generator=torch.Generator().manual_seed(1))
        tokens = torch.randn(2, 8, 12, 8, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            expected = permuted_inside_windows(model.layers[0](tokens)[0].view(tokens.shape), order)
            found = model.layers[0](permuted_inside_windows(tokens, order))[0].view(tokens.shape)
        assert torch.allclose(found, expected, atol=1e-5) == commutes

    def test_an_absolute_embedding_tells_windows_apart(self) -> None:
        same = torch.ones(1, 3, 64, 64)
        for options, differs in ((ROWS["no position"], False), (ROWS["absolute"], True)):
            with torch.no_grad():
                found = backbone((1,), **options, pretrain_image_size=64)(same)[0]
            assert bool((found - found[:, :, :1, :1]).abs().max() > 1e-3) == differs

    def test_there_is_no_table(self) -> None:
        names = {name.rpartition(".")[2] for name, _ in backbone(relative_position_bias=False).named_parameters()}
        assert "relative_position_bias_table" not in names and "weight" in names


class TestWithoutAppearance:
    @pytest.mark.parametrize("appearance_term", [True, False])
    def test_attention_weights_do_not_depend_on_the_image(self, appearance_term: bool) -> None:
        model = PlainSwin(backbone(appearance_term=appearance_term))
        weights = []
        for seed in (2, 3):
            tokens = torch.randn(1, 11, 18, 8, generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                windows, mask = model.blocks(0)[1].windows(tokens)
                weights.append(model.blocks(0)[1].attention_weights(windows, mask, (SIDE, SIDE))[0])
        assert torch.equal(*weights) != appearance_term

    def test_they_are_the_softmax_of_the_bias(self) -> None:
        attention = randomised(WindowAttention(8, 2, (SIDE, SIDE), appearance_term=False))
        tokens = torch.randn(3, 2, SIDE * SIDE, 8, generator=torch.Generator().manual_seed(1))
        value = attention.qkv(tokens)[..., 16:].unflatten(-1, (2, 4)).transpose(2, 3)
        expected = (attention.position_bias().softmax(-1) @ value).transpose(2, 3).flatten(3)
        none = torch.zeros(0, SIDE * SIDE, SIDE * SIDE)
        assert torch.allclose(attention(tokens, none), attention.proj(expected), atol=1e-5)
        fused = fused_attention(attention.projected(tokens), attention.position_bias(), none)
        assert torch.allclose(attention.proj(fused), attention.proj(expected), atol=1e-5)

    def test_attention_without_any_term_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="relative_position_bias=True"):
            backbone(appearance_term=False, relative_position_bias=False)


def test_classifiers_take_the_options_too() -> None:
    model: nn.Module = create_classifier("swin_nano", 5, shift_windows=False, relative_position_bias=False)
    assert tuple(model.eval()(torch.randn(1, 3, 64, 64)).shape) == (1, 5)
