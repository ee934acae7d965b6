"""What counts as a multiply-add and where it is booked; the paper's equations 1 and 2, and its Table 7."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import DeformConv2d

from helpers.commands import answer, command
from swin_dense.backbones import SwinTransformer
from swin_dense.errors import ConfigError
from swin_dense.stats import (
    Cost,
    MacCount,
    architecture,
    attention_complexity,
    count_macs,
    count_parameters,
    model_stats,
)

DEVICES = pytest.mark.parametrize("device", ["cpu", "meta"])

# Channels, heads and blocks of each stage; everything else is the same in all four columns of the table.
TABLE_7 = {
    "swin_tiny": ((96, 192, 384, 768), (3, 6, 12, 24), (2, 2, 6, 2)),
    "swin_small": ((96, 192, 384, 768), (3, 6, 12, 24), (2, 2, 18, 2)),
    "swin_base": ((128, 256, 512, 1024), (4, 8, 16, 32), (2, 2, 18, 2)),
    "swin_large": ((192, 384, 768, 1536), (6, 12, 24, 48), (2, 2, 18, 2)),
}


def total(module: nn.Module, *inputs: Tensor) -> int:
    return count_macs(module.eval(), lambda model: model(*inputs)).total


class Attention(nn.Module):
    """Attention without projections, in one of the forms in which it is written."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.form == "fused":
            return functional.scaled_dot_product_attention(q, k, v)
        if self.form == "fused with mask":
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=q.new_zeros(q.shape[-2], k.shape[-2]))
        if self.form == "matmul":
            return (q @ k.mT).softmax(-1) @ v
        if self.form == "einsum":
            return torch.einsum("bhlm,bhmd->bhld", torch.einsum("bhld,bhmd->bhlm", q, k).softmax(-1), v)
        scores = torch.baddbmm(q.new_zeros(1), q.flatten(0, 1), k.flatten(0, 1).mT)
        return torch.bmm(scores.softmax(-1), v.flatten(0, 1))


class Block(nn.Module):
    """A linear layer in a container, another one beside it, and a product of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Module()
        self.branch.heads = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 2)])
        self.norm = nn.LayerNorm(4)
        self.stem = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(self.stem(x)))
        return self.branch.heads[0](x).mT @ self.branch.heads[1](x)


@DEVICES
def test_a_linear_layer_counts_inputs_times_outputs_per_token_and_no_bias(device: str) -> None:
    assert total(nn.Linear(6, 5, device=device), torch.empty(2, 7, 6, device=device)) == 2 * 7 * 6 * 5


@DEVICES
def test_a_convolution_counts_its_kernel_per_output_pixel(device: str) -> None:
    convolution = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2, device=device)
    assert total(convolution, torch.empty(2, 6, 9, 11, device=device)) == 2 * (5 * 6) * 8 * (6 // 2) * 9


@DEVICES
def test_a_transposed_convolution_counts_its_kernel_per_input_pixel(device: str) -> None:
    convolution = nn.ConvTranspose2d(6, 8, 2, stride=2, device=device)
    assert total(convolution, torch.empty(2, 6, 9, 11, device=device)) == 2 * (9 * 11) * 6 * 8 * 4


@DEVICES
def test_a_deformable_convolution_counts_as_the_plain_one(device: str) -> None:
    deformable = DeformConv2d(6, 8, 3, padding=1, groups=2).to(device)
    images, offsets = torch.empty(2, 6, 9, 11, device=device), torch.zeros(2, 18, 9, 11, device=device)
    mask = torch.ones(2, 9, 9, 11, device=device)
    plain = nn.Conv2d(6, 8, 3, padding=1, groups=2, device=device)
    assert total(deformable, images, offsets, mask) == total(plain, images)


@DEVICES
@pytest.mark.parametrize("form", ["matmul", "einsum", "baddbmm", "fused", "fused with mask"])
def test_attention_counts_both_products_in_whatever_form_it_is_written(form: str, device: str) -> None:
    q, k, v = (torch.randn(2, 3, length, 8, device=device) for length in (5, 7, 7))
    assert total(Attention(form), q, k, v) == 2 * 3 * (5 * 7 * 8 + 5 * 7 * 8)


@DEVICES
def test_fused_attention_layers_are_not_overlooked(device: str) -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, device=device)
    projections, products, mlp = 10 * 16 * 64, 2 * 10 * 10 * 16, 10 * 2 * 16 * 32
    assert total(layer, torch.randn(3, 10, 16, device=device)) == 3 * (projections + products + mlp)
    assert torch.backends.mha.get_fastpath_enabled(), "left as it was found"


def test_norms_activations_additions_and_resizing_count_nothing() -> None:
    layers = nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.GELU(), nn.Softmax(1), nn.Upsample(scale_factor=2))
    x = torch.randn(1, 4, 6, 6)
    assert count_macs(layers.eval(), lambda model: model(x) + 1) == MacCount(0, {})


def test_parts_are_the_outermost_submodules_called_and_containers_lend_their_name() -> None:
    block, x = Block(), torch.empty(7, 4)
    count = count_macs(block, lambda model: model(x))
    assert count.parts == {"stem": 2 * 2 * 7 * 16, "branch.heads": 7 * 4 * 3 + 7 * 4 * 2}
    assert count.total - sum(count.parts.values()) == 3 * 7 * 2, "the product that belongs to no submodule"


def test_shared_parameters_count_once_and_frozen_ones_are_not_trainable() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    second.bias.requires_grad_(False)
    model = nn.Sequential(first, second)
    assert count_parameters(model) == 16 + 4 + 4
    assert count_parameters(model, trainable_only=True) == 16 + 4


def test_model_stats_leaves_the_model_as_it_was_and_is_plain_json() -> None:
    block = Block().train()
    stats = model_stats(block, lambda model: model(torch.empty(7, 4, device=model.norm.weight.device)))
    assert block.training and block.norm.weight.device.type == "cpu"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in block.modules())
    assert json.loads(json.dumps(stats.to_dict())) == {
        "params": 73,
        "trainable_params": 73,
        "macs": 448 + 140 + 42,
        "parts": {"stem": {"params": 40, "macs": 448}, "branch.heads": {"params": 25, "macs": 140}},
    }


class Sparse(nn.Linear):
    """Keeps the positive rows alone: how many is not known from shapes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[x[:, 0] > 0])


def test_a_model_that_needs_values_is_counted_on_the_cpu() -> None:
    x = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [3.0, 2.0]])
    assert model_stats(Sparse(2, 5), lambda model: model(x.to(model.weight.device))).macs == 2 * 2 * 5


def test_a_failing_forward_pass_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model_stats(nn.Linear(4, 4), lambda model: model(torch.empty(1, 3, device=model.weight.device)))


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


@pytest.mark.parametrize("variant", TABLE_7)
def test_the_architecture_is_that_of_table_7(variant: str) -> None:
    stages = architecture(variant)
    assert [stage.downsampling for stage in stages] == [4, 8, 16, 32]
    assert [stage.output for stage in stages] == [(56, 56), (28, 28), (14, 14), (7, 7)]
    assert [stage.joined for stage in stages] == [(4, 4), (2, 2), (2, 2), (2, 2)]
    assert [stage.window for stage in stages] == [(7, 7)] * 4
    assert (
        tuple(zip(*((stage.channels, stage.heads, stage.blocks) for stage in stages), strict=True)) == TABLE_7[variant]
    )


def test_the_command_prints_it_in_the_layout_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("stats", "swin_tiny", "--architecture", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["stages"][2]["output"] == [14, 14]
    row = next(line for line in captured.err.splitlines() if "14x14" in line)
    assert row.split() == "3 16x 14x14 concat 2x2, 384-d, LN [win 7x7, dim 384, head 12] x 6".split()


def test_maps_are_those_of_the_image_size_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert [
        stage["output"]
        for stage in answer(capsys, "stats", "swin_tiny", "--architecture", "--shape", "800x1280", "--json")["stages"]
    ][0] == [200, 320]


def test_that_of_videos_has_frames_before_rows_and_columns() -> None:
    first, second = architecture("swin3d_tiny")[:2]
    assert (first.output, first.joined, first.window) == ((16, 56, 56), (2, 4, 4), (8, 7, 7))
    assert (second.output, second.joined) == ((16, 28, 28), (2, 2))
