"""mmdet 2 and 3, mmseg 0 and 1: other names, and patch merging in the channel order of `nn.Unfold`.

The major versions name a Swin Transformer alike, and FPN, RPN, RoI, ATSS, RepPoints, UPer and FCN heads too.
"""

from __future__ import annotations

from torch import Tensor

from swin_dense.weights.formats.official import AS_TOKENS, INDEX, OUTPUT_NORM, POSITIONS
from swin_dense.weights.formats.table import SAME_NAMES, Format, Rearrangement, Row, Table


def _unfold_to_official(values: Tensor) -> Tensor:
    """Reorders the last dimension from (channel, row, column) to (column, row, channel)."""
    return values.reshape(*values.shape[:-1], -1, 2, 2).transpose(-1, -3).flatten(-3)


def _official_to_unfold(values: Tensor) -> Tensor:
    """Reorders the last dimension from (column, row, channel) to (channel, row, column)."""
    return values.reshape(*values.shape[:-1], 2, 2, -1).transpose(-1, -3).flatten(-3)


_REORDERED = "patch-merging channels reordered"
_MERGING_ORDER = Rearrangement(_REORDERED, _REORDERED, _unfold_to_official, _official_to_unfold)

_BLOCK = "stages.{i}.blocks.{j}"
_OFFICIAL = "layers.{i}.blocks.{j}"

_TABLE = Table(
    [
        Row("patch_embed.projection", "patch_embed.proj"),
        Row("patch_embed.norm", "patch_embed.norm"),
        Row("absolute_pos_embed", POSITIONS, AS_TOKENS),
        Row(f"{_BLOCK}.norm1", f"{_OFFICIAL}.norm1"),
        Row(f"{_BLOCK}.attn.w_msa.qkv", f"{_OFFICIAL}.attn.qkv"),
        Row(f"{_BLOCK}.attn.w_msa.proj", f"{_OFFICIAL}.attn.proj"),
        Row(f"{_BLOCK}.attn.w_msa.relative_position_bias_table", f"{_OFFICIAL}.attn.relative_position_bias_table"),
        Row(f"{_BLOCK}.attn.w_msa.relative_position_index", INDEX),
        Row(f"{_BLOCK}.norm2", f"{_OFFICIAL}.norm2"),
        Row(f"{_BLOCK}.ffn.layers.0.0", f"{_OFFICIAL}.mlp.fc1"),
        Row(f"{_BLOCK}.ffn.layers.1", f"{_OFFICIAL}.mlp.fc2"),
        Row("stages.{i}.downsample.norm", "layers.{i}.downsample.norm", _MERGING_ORDER),
        Row("stages.{i}.downsample.reduction", "layers.{i}.downsample.reduction", _MERGING_ORDER),
        Row("norm{i}", OUTPUT_NORM),
    ]
)

OPENMMLAB = Format("openmmlab", reading=_TABLE, forms=(_TABLE,), around=SAME_NAMES)
