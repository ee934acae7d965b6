"""BiFPN equals its formula, takes maps of any size, and has the parameters of the published checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.errors import ConfigError
from swin_dense.openmmlab.heads.necks import BiFPN, BiFPNLayer, FusedSum

GROUP_NORM = {"type": "GN", "num_groups": 4}


def swish(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def test_a_sum_is_normalised_and_lets_no_negative_weight_count() -> None:
    fuse = FusedSum(3)
    fuse.weights.data = torch.tensor([2.0, 1.0, -5.0]).view(1, 1, 1, 1, 3)
    a, b, c = torch.randn(3, 2, 4, 5, 6).unbind()
    torch.testing.assert_close(fuse(a, b, c), swish((2 * a + b) / 3.0001))


def test_a_layer_is_the_figure_of_the_paper() -> None:
    """Three levels by hand: P7 down to P5, and up again; inner levels also see their input on the way up."""
    torch.manual_seed(0)
    layer = BiFPNLayer([8, 8, 8], 8, GROUP_NORM)
    for parameter in layer.parameters():
        parameter.data = torch.rand_like(parameter)
    fine, middle, coarse = (torch.randn(1, 8, *size) for size in ((7, 10), (4, 5), (2, 3)))

    def fused(combine: torch.nn.Module, *maps: Tensor) -> Tensor:
        weights = combine.weights.flatten()
        return swish(sum(w * one for w, one in zip(weights, maps, strict=True)) / (weights.sum() + 1e-4))

    def up(one: Tensor, like: Tensor) -> Tensor:
        return functional.interpolate(one, size=like.shape[-2:], mode="nearest")

    def down(one: Tensor) -> Tensor:
        return functional.max_pool2d(one, 3, 2, 1)

    sums, convs = layer.lateral_combine, layer.lateral_combine_conv
    middle_down = convs[1](fused(sums[1], middle, up(coarse, middle)))
    fine_out = convs[0](fused(sums[0], fine, up(middle_down, fine)))
    sums, convs = layer.out_combine, layer.out_combine_conv
    middle_out = convs[0](fused(sums[0], down(fine_out), middle_down, middle))
    coarse_out = convs[1](fused(sums[1], down(middle_out), coarse))
    torch.testing.assert_close(layer([fine, middle, coarse]), [fine_out, middle_out, coarse_out])


@pytest.mark.parametrize(("height", "width"), [(256, 320), (100, 133), (8, 300), (1, 1)])
def test_levels_halve_from_any_size(height: int, width: int) -> None:
    neck = BiFPN([4, 8, 16], 8, num_outs=5, num_repeat=2, norm_cfg=GROUP_NORM)
    maps = [torch.randn(2, c, -(-height // s), -(-width // s)) for c, s in ((4, 8), (8, 16), (16, 32))]
    expected = [(2, 8, -(-height // s), -(-width // s)) for s in (8, 16, 32, 64, 128)]
    assert [tuple(one.shape) for one in neck(maps)] == expected


def test_every_layer_has_parameters_of_its_own_and_all_of_them_learn() -> None:
    neck = BiFPN([4, 8, 16], 8, num_outs=5, num_repeat=2, norm_cfg=GROUP_NORM)
    neck.init_weights()
    maps = [torch.randn(1, c, s, s) for c, s in ((4, 16), (8, 8), (16, 4))]
    sum((one * torch.randn_like(one)).sum() for one in neck(maps)).backward()
    assert [name for name, p in neck.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert len({id(p) for p in neck.parameters()}) == len(list(neck.bi_fpn[0].parameters())) + len(
        list(neck.bi_fpn[1].parameters())
    )


def test_parameters_have_the_names_of_the_published_checkpoints() -> None:
    names = dict(BiFPN([4, 8, 16], 8, num_outs=5, num_repeat=2, norm_cfg=GROUP_NORM).named_parameters())
    assert {
        "bi_fpn.0.lateral_convs.0.conv.weight",
        "bi_fpn.0.lateral_convs.4.gn.bias",  # the pooled levels have the width of the backbone's last map
        "bi_fpn.1.lateral_combine.3.weights",
        "bi_fpn.1.lateral_combine_conv.0.gn.weight",
        "bi_fpn.1.out_combine_conv.3.conv.weight",
    } <= set(names)
    assert names["bi_fpn.0.out_combine.0.weights"].shape == (1, 1, 1, 1, 3)
    assert names["bi_fpn.0.out_combine.3.weights"].shape == (1, 1, 1, 1, 2)
    assert not any(name.startswith(("bi_fpn.1.lateral_convs", "bi_fpn.0.lateral_convs.1")) for name in names)


def test_fewer_levels_than_the_backbone_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_outs is 2, but the backbone returns 3 maps"):
        BiFPN([4, 8, 16], 8, num_outs=2, num_repeat=1)
