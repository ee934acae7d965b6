"""The official names, of classification and dense checkpoints alike, which are also this project's own."""

from __future__ import annotations

from swin_dense.weights.formats.table import Format, Row

BUFFERS = ("layers.{i}.blocks.{j}.attn.relative_position_index", "layers.{i}.blocks.{j}.attn_mask")

NAMES = (
    "patch_embed.proj",
    "patch_embed.norm",
    "absolute_pos_embed",
    "mask_token",
    "layers.{i}.blocks.{j}.norm1",
    "layers.{i}.blocks.{j}.attn.qkv",
    "layers.{i}.blocks.{j}.attn.proj",
    "layers.{i}.blocks.{j}.attn.relative_position_bias_table",
    "layers.{i}.blocks.{j}.norm2",
    "layers.{i}.blocks.{j}.mlp.fc1",
    "layers.{i}.blocks.{j}.mlp.fc2",
    "layers.{i}.downsample.norm",
    "layers.{i}.downsample.reduction",
    "norm{i}",  # the output norms of the dense form
    "norm",  # the last norm and the head of the classification form
    "head",
    *BUFFERS,
)

OFFICIAL = Format("official", [Row(name, name) for name in NAMES])
