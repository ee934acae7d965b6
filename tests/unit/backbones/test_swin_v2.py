"""Swin Transformer V2: what its blocks compute, and every form of the backbone that computes it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers.compiling import compiled_copy
from helpers.random_values import randomised
from swin_dense.backbones import SwinTransformer, create_backbone, create_classifier
from swin_dense.backbones.attention import CosineAttention, fused_attention, grouped_attention, log_spaced_offsets
from swin_dense.backbones.gridded_attention import plain_attention
from swin_dense.backbones.plain import PlainSwin
from swin_dense.backbones.windows import window_plan
from swin_dense.errors import ConfigError
from swin_dense.stats import model_stats

SMALL: dict[str, Any] = {
    "embed_dim": 16,
    "depths": (2, 3),
    "num_heads": (2, 4),
    "window_size": 4,
    "out_indices": (0, 1),
    "version": 2,
}


def small(**options: Any) -> SwinTransformer:
    model = randomised(SwinTransformer(**{**SMALL, **options}))
    assert isinstance(model, SwinTransformer)
    with torch.no_grad():  # one temperature of each layer is beyond the clamp, and so gets no gradient
        for block in (block for stage in model.layers for block in stage.blocks):
            block.attn.logit_scale.copy_(torch.linspace(1.0, 5.0, block.attn.heads).view(-1, 1, 1))
    return model


def random_images(height: int = 37, width: int = 50) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(2))


def test_names_are_the_official_ones() -> None:
    names = {name.removeprefix("layers.0.blocks.1.") for name, _ in small().named_parameters() if "0.blocks.1." in name}
    attention = {f"attn.{name}" for name in ("logit_scale", "q_bias", "v_bias", "qkv.weight", "proj.weight")}
    attention |= {f"attn.{name}" for name in ("proj.bias", "cpb_mlp.0.weight", "cpb_mlp.0.bias", "cpb_mlp.2.weight")}
    others = {f"{name}.{leaf}" for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2") for leaf in ("weight", "bias")}
    assert names == attention | others


@pytest.mark.parametrize("window", [(4, 4), (3, 2)])
def test_attention_is_softmax_of_scaled_cosines_and_continuous_bias(window: tuple[int, int]) -> None:
    """The paper's equations 2 and 4, one query and one key at a time."""
    attention = randomised(CosineAttention(8, 2, (4, 4), pretrained_window=3)).double()
    with torch.no_grad():
        attention.logit_scale.copy_(torch.tensor([3.0, 7.0]).view(2, 1, 1))
    length = window[0] * window[1]
    tokens = torch.randn(1, 1, length, 8, dtype=torch.float64)
    found = attention(tokens, torch.zeros(0, length, length, dtype=torch.float64), window)
    key_bias = torch.zeros(8, dtype=torch.float64)
    bias = torch.cat((attention.q_bias, key_bias, attention.v_bias))
    query, key, value = functional.linear(tokens[0, 0], attention.qkv.weight, bias).chunk(3, -1)
    places = [(i // window[1], i % window[1]) for i in range(length)]
    heads = []
    for head, scale in enumerate((math.exp(3.0), 100.0)):  # a temperature is at least 0.01
        part = slice(4 * head, 4 * head + 4)
        scores = torch.empty(length, length, dtype=torch.float64)
        for i, j in ((i, j) for i in range(length) for j in range(length)):
            # 8 is the largest offset in the windows of 3 in which the bias was learned.
            offset = [(a - b) / 2 * 8 for a, b in zip(places[i], places[j], strict=True)]
            logs = [math.copysign(math.log2(1 + abs(x)) / 3, x) for x in offset]
            shown = 16 * torch.sigmoid(attention.cpb_mlp(torch.tensor(logs, dtype=torch.float64)))[head]
            cosine = query[i, part] @ key[j, part] / query[i, part].norm() / key[j, part].norm()
            scores[i, j] = cosine * scale + shown
        heads.append(scores.softmax(-1) @ value[:, part])
    expected = attention.proj(torch.cat(heads, -1))
    assert torch.allclose(found[0, 0], expected, rtol=1e-6, atol=1e-7)


def test_offsets_of_the_trained_windows_are_those_between_minus_one_and_one() -> None:
    offsets = log_spaced_offsets((8, 8), 8, torch.empty(0))
    assert offsets.shape == (225, 2) and offsets.abs().max() == pytest.approx(math.log2(9) / 3)
    larger = log_spaced_offsets((16, 16), 8, torch.empty(0)).view(31, 31, 2)
    assert torch.equal(larger[8:-8, 8:-8].flatten(0, 1), offsets)
    assert torch.equal(log_spaced_offsets((1, 1), 1, torch.empty(0)), torch.zeros(1, 2))


def test_norms_stand_behind_attention_mlp_and_the_reduction() -> None:
    model = small(depths=(1, 1))
    block, merging = model.layers[0].blocks[0], model.layers[0].downsample
    assert merging.norm.weight.shape == (32,)
    partition = window_plan(torch.empty(1, 4, 4, 16), (4, 4), (2, 2)).partitions[0]
    rows = torch.randn(16, 16)
    attended = rows + block.norm1(block.attn(rows.view(1, 1, 16, 16), partition.mask).flatten(0, 2))
    assert torch.allclose(block(rows, partition), attended + block.norm2(block.mlp(attended)), atol=1e-5)


def test_new_blocks_change_nothing() -> None:
    """The official initialisation, with which deep models of version 2 train stably."""
    model = SwinTransformer(**SMALL).eval()
    tokens = model.patch_embed(random_images())
    assert torch.equal(model.layers[0](tokens)[0].view(tokens.shape), tokens)
    assert model.layers[0].downsample.norm.weight.min() == 1


def gradients(model: SwinTransformer, images: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    sum((x * x).sum() for x in model(images)).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_all_forms_give_the_same_maps() -> None:
    """Groups of windows in evaluation, the whole in training, compiled, and in plain form; on padded windows."""
    model, images = small().double(), random_images().double()
    expected = model(images)
    compiled = copy.deepcopy(model)
    compiled.compile(backend="eager", dynamic=False)
    with torch.inference_mode():
        for form in (model, compiled, PlainSwin(model).eval()):
            for found, wanted in zip(form(images), expected, strict=True):
                assert (found - wanted).norm() <= 1e-6 * wanted.norm()
    wanted = gradients(model, images)
    for form in (compiled, small(activation_checkpointing=True).double()):
        for name, found in gradients(form, images).items():
            assert (found - wanted[name]).norm() <= 1e-6 * wanted[name].norm() + 1e-9, name


def test_compiled_it_is_one_graph_for_all_sizes() -> None:
    model = small(depths=(2, 1)).double()
    compiled, graphs = compiled_copy(model)
    for size in ((75, 130), (64, 96), (97, 64)):
        images = random_images(*size).double()
        for found, wanted in zip(compiled(images), model(images), strict=True):
            assert torch.allclose(found, wanted)
    assert len(graphs) == 1


def test_kernels_of_dot_products_compute_cosine_attention() -> None:
    """On a GPU tokens attend by fused attention or on the grid, where padding has a query, key and value too."""
    attention = randomised(CosineAttention(16, 2, (4, 4), pretrained_window=4)).double()
    grid = torch.randn(2, 7, 6, 16, dtype=torch.float64)
    plan = window_plan(grid, (4, 4), (2, 2))
    partition = plan.partitions[1]
    tokens, mask = partition.fill(plan.from_grid[1](grid.flatten(0, 2))), partition.mask.double()
    qkv, bias = attention.projected(tokens), attention.position_bias()
    grouped = grouped_attention(qkv, bias, mask)
    assert torch.allclose(fused_attention(qkv, bias, mask), grouped)
    padding = attention.padding()
    assert torch.equal(padding[1], torch.zeros_like(padding[1])) and padding[0].abs().min() > 0
    on_grid = plain_attention(attention.projected(grid), padding, bias, (4, 4), (2, 2))
    rows = plan.from_grid[1].inverse(partition.take(grouped))
    assert torch.allclose(on_grid.flatten(0, 2), rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(dtype: torch.dtype) -> None:
    """Lengths are taken in float32: squares of large queries exceed half precision, those of small ones vanish."""
    model, images = small(), random_images()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("logit_scale"):
                parameter.fill_(2.0)  # a hundredfold cosine, as elsewhere here, is rounded to half a unit
        for scale, stage in zip((3e3, 1e-4), model.layers, strict=True):
            for block in stage.blocks:
                block.attn.qkv.weight[: 2 * len(block.attn.q_bias)] *= scale
                block.attn.q_bias *= scale
    expected = model(images)
    with torch.autocast("cpu", dtype=dtype):
        in_training = model(images)
        with torch.no_grad():
            in_evaluation = model(images)
    for found in (in_training, in_evaluation):
        for one, wanted in zip(found, expected, strict=True):
            assert one.isfinite().all() and (one - wanted).norm() <= 0.1 * wanted.norm()
    assert all(value.isfinite().all() for value in gradients(model, images).values())


def test_window_transfer_needs_no_other_weights() -> None:
    """Offsets of larger windows are the same where they were learned, and go on beyond."""
    trained = small(window_size=8, pretrained_window_sizes=(8, 8))
    larger = small(window_size=16, pretrained_window_sizes=(8, 8))
    larger.load_state_dict(trained.state_dict())
    before, after = (model.layers[0].blocks[0].attn.bias_table() for model in (trained, larger))
    assert torch.allclose(after.view(31, 31, -1)[8:-8, 8:-8].flatten(0, 1), before, atol=1e-6)


def test_trained_windows_are_those_that_fit_into_the_image_of_pre_training() -> None:
    model = create_backbone("swinv2_tiny", window_size=16, embed_dim=3, num_heads=(1, 1, 1, 1))
    assert [stage.blocks[0].attn.pretrained_window for stage in model.layers] == [16, 16, 16, 8]
    model = create_backbone("swinv2_tiny", window_size=24, pretrained_window_sizes=[12, 12, 12, 6])
    assert [stage.blocks[0].attn.pretrained_window for stage in model.layers] == [12, 12, 12, 6]


@pytest.mark.parametrize(
    ("variant", "window", "millions", "billions"),
    [  # the table of the official repository
        ("swinv2_tiny", 8, 28, 5.9),
        ("swinv2_small", 8, 50, 11.5),
        ("swinv2_base", 8, 88, 20.3),
        ("swinv2_tiny", 16, 28, 6.6),
        ("swinv2_small", 16, 50, 12.6),
        ("swinv2_base", 16, 88, 21.8),
    ],
)
def test_classifiers_are_as_large_as_published(variant: str, window: int, millions: int, billions: float) -> None:
    with torch.device("meta"):
        model = create_classifier(variant, window_size=window)
    sizes = model_stats(model, lambda one: one(torch.empty(1, 3, 256, 256, device=one.head.weight.device)))
    assert round(sizes.params / 1e6) == millions and sizes.macs / 1e9 == pytest.approx(billions, rel=0.005)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 3}, "version=3: must be 1 or 2"),
        ({"appearance_term": False}, "version=2: needs attention in windows of images"),
        ({"mixing": "mlp"}, "version=2: needs attention in windows of images"),
        ({"window_size": (2, 4, 4), "patch_size": (2, 4, 4)}, "version=2: needs attention in windows of images"),
        ({"version": 1, "pretrained_window_sizes": (4, 4)}, "version 1 has a table"),
        ({"pretrained_window_sizes": (4,)}, r"pretrained_window_sizes=\(4,\): 2 sides are needed"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SwinTransformer(**{**SMALL, **options})


def test_padding_has_finite_gradients_in_half_precision() -> None:
    backbone = small(depths=(2,), num_heads=(2,), out_indices=(0,))
    with torch.autocast("cpu", torch.float16):
        (features,) = backbone(torch.randn(1, 3, 18, 22))  # windows hold padding, whose keys are zero
    gradients = torch.autograd.grad(features.float().square().sum(), list(backbone.parameters()))
    assert all(one.isfinite().all() for one in gradients)
