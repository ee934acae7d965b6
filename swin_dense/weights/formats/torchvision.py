"""torchvision: one `features` sequence in which patch embedding, stages and patch merging take turns."""

from __future__ import annotations

from math import isqrt

from torch import Tensor

from swin_dense.weights.formats.official import INDEX
from swin_dense.weights.formats.table import Format, Rearrangement, Row, Table


def _square(index: Tensor) -> Tensor:
    """Gives (N * N,) positions of token pairs the shape (N, N)."""
    side = isqrt(index.numel())
    return index.reshape(side, side) if index.ndim == 1 else index


_FLAT = Rearrangement("index of token pairs made square", "index of token pairs flattened", _square, Tensor.flatten)

_BLOCK = "features.{2i+1}.{j}"

_TABLE = Table(
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
        Row(f"{_BLOCK}.attn.relative_position_index", INDEX, _FLAT),
        Row(f"{_BLOCK}.norm2", "layers.{i}.blocks.{j}.norm2"),
        Row(f"{_BLOCK}.mlp.0", "layers.{i}.blocks.{j}.mlp.fc1"),
        Row(f"{_BLOCK}.mlp.3", "layers.{i}.blocks.{j}.mlp.fc2"),
        Row("features.{2i+2}.norm", "layers.{i}.downsample.norm"),
        Row("features.{2i+2}.reduction", "layers.{i}.downsample.reduction"),
        Row("norm", "norm"),
        Row("head", "head"),
    ]
)

TORCHVISION = Format("torchvision", reading=_TABLE, forms=(_TABLE,))
