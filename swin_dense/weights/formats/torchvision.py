"""torchvision: one `features` sequence in which patch embedding, stages and patch merging take turns."""

from __future__ import annotations

from swin_dense.weights.formats.table import Format, Row

_BLOCK = "features.{2i+1}.{j}"

TORCHVISION = Format(
    "torchvision",
    [
        Row("features.0.0", "patch_embed.proj"),
        Row("features.0.2", "patch_embed.norm"),
        Row(f"{_BLOCK}.norm1", "layers.{i}.blocks.{j}.norm1"),
        Row(f"{_BLOCK}.attn.qkv", "layers.{i}.blocks.{j}.attn.qkv"),
        Row(f"{_BLOCK}.attn.proj", "layers.{i}.blocks.{j}.attn.proj"),
        Row(
            f"{_BLOCK}.attn.relative_position_bias_table",
            "layers.{i}.blocks.{j}.attn.relative_position_bias_table",
        ),
        Row(f"{_BLOCK}.attn.relative_position_index", "layers.{i}.blocks.{j}.attn.relative_position_index"),
        Row(f"{_BLOCK}.norm2", "layers.{i}.blocks.{j}.norm2"),
        Row(f"{_BLOCK}.mlp.0", "layers.{i}.blocks.{j}.mlp.fc1"),
        Row(f"{_BLOCK}.mlp.3", "layers.{i}.blocks.{j}.mlp.fc2"),
        Row("features.{2i+2}.norm", "layers.{i}.downsample.norm"),
        Row("features.{2i+2}.reduction", "layers.{i}.downsample.reduction"),
        Row("norm", "norm"),
        Row("head", "head"),
    ],
)
