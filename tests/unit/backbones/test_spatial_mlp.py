"""Swin-MLP equals its description, written here once more: pad, cut, convolve in groups, put together, crop.

As in the paper's Swin-Mixer and the official code: a grouped convolution over the places of a window in place of
attention; shifted windows come from zeros around the map, `window - shift` before it and `shift` after it.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers.compiling import compiled_copy
from helpers.random_values import randomised
from swin_dense.backbones import SwinTransformer, create_backbone, create_classifier
from swin_dense.backbones.plain import PlainSwin
from swin_dense.errors import ConfigError
from swin_dense.stats import model_stats
from swin_dense.weights import load_weights
from swin_dense.weights.convert import convert_state_dict

DEPTHS, WINDOW = (2, 3), 4


def backbone(**options: object) -> SwinTransformer:
    return randomised(SwinTransformer(12, DEPTHS, (2, 3), WINDOW, out_indices=(0, 1), **{"mixing": "mlp", **options}))


def images(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def described_block(tokens: Tensor, weights: dict[str, Tensor], name: str, heads: int, shift: int) -> Tensor:
    _, height, width, channels = tokens.shape
    x = functional.layer_norm(tokens, (channels,), weights[f"{name}.norm1.weight"], weights[f"{name}.norm1.bias"])
    x = functional.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))  # ours: the official code has fixed sizes
    before, after = (WINDOW - shift, shift) if shift else (0, 0)
    x = functional.pad(x, (0, 0, before, after, before, after))
    mixed = torch.empty_like(x)
    for top in range(0, x.shape[1], WINDOW):
        for left in range(0, x.shape[2], WINDOW):
            window = x[:, top : top + WINDOW, left : left + WINDOW]
            places = torch.cat([part.flatten(1, 2) for part in window.chunk(heads, dim=-1)], dim=1)
            conv = (weights[f"{name}.spatial_mlp.weight"], weights[f"{name}.spatial_mlp.bias"])
            parts = functional.conv1d(places, *conv, groups=heads).chunk(heads, dim=1)
            mixed[:, top : top + WINDOW, left : left + WINDOW] = torch.cat(parts, dim=-1).view_as(window)
    tokens = tokens + mixed[:, before : before + height, before : before + width]
    hidden = functional.layer_norm(tokens, (channels,), weights[f"{name}.norm2.weight"], weights[f"{name}.norm2.bias"])
    for layer in ("fc1", "fc2"):
        hidden = functional.linear(hidden, weights[f"{name}.mlp.{layer}.weight"], weights[f"{name}.mlp.{layer}.bias"])
        hidden = functional.gelu(hidden) if layer == "fc1" else hidden
    return tokens + hidden


def described(model: SwinTransformer, batch: Tensor) -> list[Tensor]:
    weights = dict(model.named_parameters())
    tokens, maps = model.patch_embed(batch), []
    for stage, (depth, heads) in enumerate(zip(DEPTHS, (2, 3), strict=True)):
        for block in range(depth):
            shift = WINDOW // 2 * (block % 2)
            tokens = described_block(tokens, weights, f"layers.{stage}.blocks.{block}", heads, shift)
        maps.append(model.get_submodule(f"norm{stage}")(tokens).permute(0, 3, 1, 2))
        if stage == 0:
            tokens = model.layers[0].downsample(tokens)
    return maps


def assert_same(ours: object, expected: object) -> None:
    torch.testing.assert_close(tuple(ours), tuple(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 96), (37, 50), (9, 130)])  # whole windows; padded; less than one window
def test_maps_and_gradients_are_those_of_the_description(size: tuple[int, int]) -> None:
    model, batch = backbone(), images(2, *size)
    expected = described(model, batch)
    wanted = torch.autograd.grad(sum((x * x).mean() for x in expected), list(model.parameters()))
    with torch.inference_mode():
        assert_same(model(batch), expected)
        assert_same(PlainSwin(model)(batch), expected)
    maps = model(batch)
    assert_same(maps, expected)
    assert_same(torch.autograd.grad(sum((x * x).mean() for x in maps), list(model.parameters())), wanted)


def test_compiled_it_is_one_graph_for_all_sizes_and_computes_the_same() -> None:
    """The compiled form shifts by padding, as the official code does."""
    model = backbone()
    compiled, graphs = compiled_copy(model)
    for size in ((75, 130), (64, 96), (97, 64)):
        batch = images(2, *size)
        assert_same(compiled(batch), model(batch))
    assert len(graphs) == 1


def test_a_smaller_map_is_a_window_of_its_own_and_takes_the_weights_of_its_places() -> None:
    """Zeros that fill the window change nothing; what is left out is the shift."""
    fitted, padded = backbone(fit_windows=True), backbone(shift_windows=False)
    batch = images(1, 12, 14)
    with torch.inference_mode():
        assert_same(fitted(batch), padded(batch))
        assert_same(PlainSwin(fitted)(batch), padded(batch))


@pytest.mark.parametrize(
    ("variant", "params", "macs", "published"),
    [
        # Published are millions of parameters and G of multiply-adds, to so many digits.
        ("swin_mlp_tiny_c24", 20_386_632, 3_989_551_104, (20, 4.0)),
        ("swin_mlp_tiny_c12", 21_152_072, 3_989_551_104, (21, 4.0)),
        ("swin_mlp_tiny_c6", 22_682_952, 3_989_551_104, (23, 4.0)),
        ("swin_mlp_base", 60_659_416, 10_346_010_624, (61, 10.4)),
    ],
)
def test_sizes_are_the_published_ones(variant: str, params: int, macs: int, published: tuple[int, float]) -> None:
    """The published count has the windows that padding adds around a shifted map, and the norms; ours has neither."""
    with torch.device("meta"):
        classifier = create_classifier(variant)
    side = 256 if "tiny" in variant else 224
    stats = model_stats(classifier, lambda module: module(torch.empty(1, 3, side, side, device="meta")))
    assert (stats.params, stats.macs) == (params, macs)
    padding, norms = 0, 0
    for index, stage in enumerate(classifier.layers):
        channels, tokens = classifier.patch_embed.proj.out_channels * 2**index, (side // 4 >> index) ** 2
        windows = (side // 4 >> index) // stage.window[0]
        added = (windows + 1) ** 2 - windows**2 if windows > 1 else 0
        padding += len(stage.blocks) // 2 * added * stage.window[0] ** 4 * channels
        norms += (2 * len(stage.blocks) + 1 + (index == 0)) * tokens * channels
    assert (round(params / 1e6), round((macs + padding + norms) / 1e9, 1)) == published


def test_weights_have_the_official_names_and_shapes() -> None:
    with torch.device("meta"):
        model = create_backbone("swin_mlp_tiny_c24")
    names = {name.removeprefix("layers.2.blocks.5."): tuple(x.shape) for name, x in model.state_dict().items()}
    assert names["spatial_mlp.weight"] == (16 * 64, 64, 1) and names["spatial_mlp.bias"] == (16 * 64,)
    assert not any("attn" in name for name in names)


def test_an_official_classifier_drops_in_and_comes_out_again() -> None:
    torch.manual_seed(0)
    classifier = create_classifier("swin_mlp_tiny_c24", 5, embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2))
    model = create_backbone("swin_mlp_tiny_c24", embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2))
    report = load_weights(model, classifier.state_dict())
    assert not [note for note in report.missing if "norm" not in note.name]
    loaded, given = model.state_dict(), classifier.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in given.items() if "blocks" in name)
    official, _ = convert_state_dict(classifier.state_dict(), "official")
    assert all(torch.equal(official[name], x) for name, x in classifier.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"mixing": "conv"}, "mixing"), ({"mixing": "mlp", "appearance_term": False}, "no attention")],
)
def test_what_does_not_go_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SwinTransformer(12, DEPTHS, (2, 3), WINDOW, out_indices=(0, 1), **options)


def test_a_module_is_a_convolution_whose_weights_are_drawn_as_those_of_linear_layers() -> None:
    model = SwinTransformer(96, (2,), (4,), 8, out_indices=(0,), mixing="mlp")
    mixing = model.layers[0].blocks[0].spatial_mlp
    assert isinstance(mixing, nn.Conv1d) and not mixing.bias.any()
    assert mixing.weight.std().item() == pytest.approx(0.02, rel=0.05)
