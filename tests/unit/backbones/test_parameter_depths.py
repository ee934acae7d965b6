"""How deep parameters lie, for learning rates that decay from layer to layer: the rule of BEiT and SimMIM."""

from __future__ import annotations

import pytest
import torch

from swin_dense.backbones import SwinTransformer, create_backbone

SWIN_TINY = {
    "absolute_pos_embed": 0,
    "patch_embed.proj.weight": 0,
    "patch_embed.norm.bias": 0,
    "layers.0.blocks.0.norm1.weight": 1,
    "layers.0.blocks.0.attn.relative_position_bias_table": 1,
    "layers.0.blocks.1.mlp.fc2.bias": 2,
    "layers.0.downsample.reduction.weight": 2,
    "layers.1.blocks.0.attn.qkv.weight": 3,
    "layers.1.blocks.1.norm2.bias": 4,
    "layers.1.downsample.norm.weight": 4,
    "layers.2.blocks.0.attn.proj.weight": 5,
    "layers.2.blocks.3.attn.proj.weight": 8,
    "layers.2.blocks.5.attn.proj.weight": 10,
    "layers.2.downsample.reduction.weight": 10,
    "layers.3.blocks.0.mlp.fc1.weight": 11,
    "layers.3.blocks.1.mlp.fc1.weight": 12,
    "norm0.weight": 13,
    "norm3.bias": 13,
}


def tiny(**options: object) -> SwinTransformer:
    with torch.device("meta"):
        return create_backbone("swin_tiny", absolute_position_embedding=True, **options)


def test_every_parameter_of_swin_tiny_has_its_depth() -> None:
    backbone = tiny()
    depths = backbone.parameter_depths()
    assert {name: depths[name] for name in SWIN_TINY} == SWIN_TINY
    assert depths.keys() == {name for name, _ in backbone.named_parameters()}
    assert list(depths.values()).count(13) == 8


@pytest.mark.parametrize(("out_indices", "greatest"), [((0, 1, 2), 11), ((1,), 5)])
def test_what_no_requested_map_needs_does_not_count(out_indices: tuple[int, ...], greatest: int) -> None:
    backbone = tiny(out_indices=out_indices)
    depths = backbone.parameter_depths()
    assert max(depths.values()) == depths[f"norm{out_indices[-1]}.weight"] == greatest
    learning = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert learning <= depths.keys()
    assert not any(name.startswith(f"layers.{out_indices[-1] + 1}.") for name in depths)
