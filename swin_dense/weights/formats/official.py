"""The official names, of classification and dense checkpoints alike, which are also this project's own and timm's.

Official files hold computed buffers; ours hold parameters alone. In timm's, patch merging opens a stage instead of
closing the one before it.
"""

from __future__ import annotations

from math import isqrt

from torch import Tensor

from swin_dense.errors import WeightsError
from swin_dense.weights.formats.table import SAME_NAMES, Format, Rearrangement, Row, Table


def _tokens_to_map(embedding: Tensor) -> Tensor:
    """Lays tokens (1, side * side, C) out row by row as a map (1, C, side, side); a map stays as it is."""
    if embedding.ndim != 3:
        return embedding
    side = isqrt(embedding.shape[1])
    if side * side != embedding.shape[1]:
        raise WeightsError(f"an absolute position embedding of {embedding.shape[1]} tokens does not form a square map")
    return embedding.transpose(1, 2).reshape(*embedding.shape[::2], side, side)


def _map_to_tokens(embedding: Tensor) -> Tensor:
    """The inverse; a map that is not square is refused, because its sides cannot be read from its tokens."""
    if embedding.ndim != 4:
        return embedding
    if embedding.shape[2] != embedding.shape[3]:
        raise WeightsError(f"an absolute position embedding of {tuple(embedding.shape[2:])} is not a square map")
    return embedding.flatten(2).transpose(1, 2)


AS_TOKENS = Rearrangement("tokens laid out as a map", "map laid out as tokens", _tokens_to_map, _map_to_tokens)

POSITIONS = "absolute_pos_embed"
INDEX = "layers.{i}.blocks.{j}.attn.relative_position_index"
MASK = "layers.{i}.blocks.{j}.attn_mask"
OUTPUT_NORM = "norm{i}"
CLASSIFIER = ("norm", "head")
"""The last norm and the head of the classification form."""
MASKED_PRETRAINING = ("mask_token", "decoder.0")

BODY = (
    "patch_embed.proj",
    "patch_embed.norm",
    "layers.{i}.blocks.{j}.norm1",
    "layers.{i}.blocks.{j}.attn.qkv",
    "layers.{i}.blocks.{j}.attn.proj",
    "layers.{i}.blocks.{j}.attn.relative_position_bias_table",
    "layers.{i}.blocks.{j}.norm2",
    "layers.{i}.blocks.{j}.mlp.fc1",
    "layers.{i}.blocks.{j}.mlp.fc2",
    "layers.{i}.downsample.norm",
    "layers.{i}.downsample.reduction",
)
"""What every Swin Transformer has."""

_TOKENS = Row(POSITIONS, POSITIONS, AS_TOKENS)


def rows(*names: str) -> list[Row]:
    """Rows for names that are the official ones."""
    return [Row(name, name) for name in names]


_ANY_FILE = rows(*BODY, OUTPUT_NORM, *CLASSIFIER, *MASKED_PRETRAINING, INDEX, MASK)

_BRANCH, _FEATURES = "bbox_head.mask_head.branch", "mask_head.mask_feature_head"
_AROUND = Table(
    [
        *(
            Row(f"{_BRANCH}.{theirs}.{layer}", f"{_FEATURES}.{ours}.{layer}")
            for theirs, ours in (
                ("refine.0", "convs_all_levels.0.conv0"),
                ("refine.1", "convs_all_levels.1.conv1"),
                ("refine.2", "convs_all_levels.2.conv2"),
                *((f"tower.{i}", f"conv_branch.{i}") for i in range(4)),
            )
            for layer in ("conv", "bn")
        ),
        Row(f"{_BRANCH}.tower.4", f"{_FEATURES}.conv_pred"),
    ],
    others_keep_names=True,
)
"""The mask head of Mask RepPoints V2 is mmdet's CondInst under other names."""

OFFICIAL = Format(
    "official",
    reading=Table([*_ANY_FILE, _TOKENS]),
    forms=(
        Table([*rows(*BODY, *CLASSIFIER, *MASKED_PRETRAINING, INDEX, MASK), _TOKENS]),
        Table(rows(*BODY, POSITIONS, OUTPUT_NORM, INDEX)),
    ),
    around=_AROUND,
    has_buffers=True,
    wrapper="model",
)

OWN = Format(
    "swin-dense",
    reading=Table([*_ANY_FILE, *rows(POSITIONS)]),
    forms=(Table(rows(*BODY, POSITIONS, OUTPUT_NORM, *CLASSIFIER, *MASKED_PRETRAINING)),),
    around=SAME_NAMES,
    has_buffers=False,
)

_RENAMED = {
    "layers.{i}.downsample.norm": "layers.{i+1}.downsample.norm",
    "layers.{i}.downsample.reduction": "layers.{i+1}.downsample.reduction",
    "head": "head.fc",
}
# No output norms: timm's feature maps are not normalised.
_OF_TIMM = [Row(_RENAMED.get(name, name), name) for name in (*BODY, *CLASSIFIER)]
# `features_only=True` flattens `layers.0` to `layers_0`.
_FLATTENED = [
    Row(theirs.replace("layers.", "layers_", 1), official)
    for theirs, official, _ in _OF_TIMM
    if isinstance(theirs, str) and theirs.startswith("layers.")
]

TIMM = Format(
    "timm",
    # Older versions had embeddings and buffers too.
    reading=Table([*_OF_TIMM, _TOKENS, *rows(INDEX, MASK), *_FLATTENED]),
    forms=(Table(_OF_TIMM),),
)
