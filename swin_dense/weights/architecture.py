"""Which published Swin the tensors of a backbone belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import torch

from swin_dense.backbones.variants import VARIANTS
from swin_dense.weights.formats.table import Name

_BLOCK = Name("layers.{i}.blocks.{j}.norm1")


class _Sizes(NamedTuple):
    """Channels of the first stage, blocks per stage, and rows of a relative position bias table."""

    embed_dim: int
    depths: tuple[int, ...]
    positions: int


def other_variant(theirs: Mapping[str, torch.Size], ours: Mapping[str, torch.Size]) -> str | None:
    """Names the variant that a checkpoint holds where the model is another one.

    Args:
        theirs: Shapes of the checkpoint's backbone by official name.
        ours: Shapes of the model's backbone by official name.

    Returns:
        A key of `VARIANTS`; None if none has these sizes, or if width and depths are the model's own: tables of other
        windows are resized.
    """
    found, wanted = _sizes(theirs), _sizes(ours)
    if (found.embed_dim, found.depths) == (wanted.embed_dim, wanted.depths):
        return None
    names = [
        name
        for name, variant in VARIANTS.items()
        if found == (variant.embed_dim, variant.depths, (2 * variant.window_size - 1) ** 2)
    ]
    return names[0] if len(names) == 1 else None


def _sizes(shapes: Mapping[str, torch.Size]) -> _Sizes:
    blocks = Counter(
        found[0]["i"] for key in shapes if (found := _BLOCK.match(key)) is not None and found[1] == ".weight"
    )
    embedding, table = (
        shapes.get(name) or (0,)
        for name in ("patch_embed.proj.weight", "layers.0.blocks.0.attn.relative_position_bias_table")
    )
    return _Sizes(embedding[0], tuple(blocks[i] for i in sorted(blocks)), table[0])
