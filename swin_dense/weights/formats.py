"""The weight formats: what each library calls the tensors of a Swin, as tables against the official dense names.

- The official names, of classification and dense checkpoints alike, are also this project's own and timm's. Official
  files hold computed buffers; ours hold parameters alone. In timm's, patch merging opens a stage instead of closing the
  one before it. Video Swin's have `backbone.` before them, and the head beside it; mmaction2 reads these.
- mmdet 2 and 3, mmseg 0 and 1: other names, and patch merging in the channel order of `nn.Unfold`. The major versions
  name a Swin Transformer alike, and FPN, RPN, RoI, ATSS, RepPoints, UPer and FCN heads too.
- torchvision: one `features` sequence in which patch embedding, stages and patch merging take turns; of videos without
  the patch embedding.
- Hugging Face transformers: SwinModel, SwinBackbone, SwinForImageClassification and what is built on them, with `swin.`
  before the names of SwinModel (in part only where SwinBackbone was saved). Since version 5 the names of the attention
  are new; checkpoints, also those that it writes, keep the old ones. Both are read. Version 4 holds the index of
  relative positions too, and leaves it without values where a file lacks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isqrt

from torch import Tensor

from swin_dense.errors import WeightsError
from swin_dense.weights.tables import SAME_NAMES, Format, Rearrangement, Row, Table


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


_AS_TOKENS = Rearrangement("tokens laid out as a map", "map laid out as tokens", _tokens_to_map, _map_to_tokens)

_OFFICIAL = "layers.{i}.blocks.{j}"
_POSITIONS = "absolute_pos_embed"
INDEX = f"{_OFFICIAL}.attn.relative_position_index"
MASK = f"{_OFFICIAL}.attn_mask"
_OUTPUT_NORM = "norm{i}"
_CLASSIFIER = ("norm", "head")
"""The last norm and the head of the classification form."""
_MASKED_PRETRAINING = ("mask_token", "decoder.0")
VIDEO_HEAD = "cls_head"
"""What stands beside the backbone in official Video Swin, around the head's linear layer."""

_BODY = (
    "patch_embed.proj",
    "patch_embed.norm",
    f"{_OFFICIAL}.norm1",
    f"{_OFFICIAL}.attn.qkv",
    f"{_OFFICIAL}.attn.proj",
    f"{_OFFICIAL}.attn.relative_position_bias_table",
    f"{_OFFICIAL}.norm2",
    f"{_OFFICIAL}.mlp.fc1",
    f"{_OFFICIAL}.mlp.fc2",
    "layers.{i}.downsample.norm",
    "layers.{i}.downsample.reduction",
)
"""What every Swin Transformer has."""

_MLP = f"{_OFFICIAL}.spatial_mlp"
"""What Swin-MLP has in place of attention."""

_TEMPORAL = (
    f"{_OFFICIAL}.temporal",
    *(
        f"{_OFFICIAL}.temporal.{name}"
        for name in ("norm", "attn.qkv", "attn.proj", "attn.relative_position_bias_table")
    ),
    *(name.replace(_OFFICIAL, "layers.{i}.temporal.blocks.{j}") for name in _BODY if name.startswith(_OFFICIAL)),
)
"""Attention over time alone, of videos; no other library has it."""

_TOKENS = Row(_POSITIONS, _POSITIONS, _AS_TOKENS)


def _rows(*names: str) -> list[Row]:
    """Rows for names that are the official ones."""
    return [Row(name, name) for name in names]


_VIDEO_HEAD = Row(f"{VIDEO_HEAD}.fc_cls", "head")

_ANY_FILE = [*_rows(*_BODY, _MLP, _OUTPUT_NORM, *_CLASSIFIER, *_MASKED_PRETRAINING, INDEX, MASK), _VIDEO_HEAD]

_OFFICIAL_VIDEO = Table([*(Row(f"backbone.{name}", name) for name in (*_BODY, "norm", INDEX)), _VIDEO_HEAD])

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
        Table([*_rows(*_BODY, _MLP, *_CLASSIFIER, *_MASKED_PRETRAINING, INDEX, MASK), _TOKENS]),
        Table(_rows(*_BODY, _MLP, _POSITIONS, _OUTPUT_NORM, INDEX)),
    ),
    around=_AROUND,
    has_buffers=True,
    wrapper="model",
    video=_OFFICIAL_VIDEO,
    video_wrapper="state_dict",
)

OWN = Format(
    "swin-dense",
    reading=Table([*_ANY_FILE, *_rows(_POSITIONS, *_TEMPORAL)]),
    forms=(Table(_rows(*_BODY, _MLP, _POSITIONS, _OUTPUT_NORM, *_CLASSIFIER, *_MASKED_PRETRAINING)),),
    around=SAME_NAMES,
    has_buffers=False,
    video=Table(_rows(*_BODY, *_TEMPORAL, _OUTPUT_NORM, *_CLASSIFIER)),
)

_RENAMED = {
    "layers.{i}.downsample.norm": "layers.{i+1}.downsample.norm",
    "layers.{i}.downsample.reduction": "layers.{i+1}.downsample.reduction",
    "head": "head.fc",
}
# No output norms: timm's feature maps are not normalised.
_OF_TIMM = [Row(_RENAMED.get(name, name), name) for name in (*_BODY, *_CLASSIFIER)]
# `features_only=True` flattens `layers.0` to `layers_0`.
_FLATTENED = [
    Row(theirs.replace("layers.", "layers_", 1), official)
    for theirs, official, _ in _OF_TIMM
    if isinstance(theirs, str) and theirs.startswith("layers.")
]

TIMM = Format(
    "timm",
    # Older versions had embeddings and buffers too.
    reading=Table([*_OF_TIMM, _TOKENS, *_rows(INDEX, MASK), *_FLATTENED]),
    forms=(Table(_OF_TIMM),),
)


def _unfold_to_official(values: Tensor) -> Tensor:
    """Reorders the last dimension from (channel, row, column) to (column, row, channel)."""
    return values.reshape(*values.shape[:-1], -1, 2, 2).transpose(-1, -3).flatten(-3)


def _official_to_unfold(values: Tensor) -> Tensor:
    """Reorders the last dimension from (column, row, channel) to (channel, row, column)."""
    return values.reshape(*values.shape[:-1], 2, 2, -1).transpose(-1, -3).flatten(-3)


_REORDERED = "patch-merging channels reordered"
_MERGING_ORDER = Rearrangement(_REORDERED, _REORDERED, _unfold_to_official, _official_to_unfold)

_MMDET = "stages.{i}.blocks.{j}"

_OPENMMLAB = Table(
    [
        Row("patch_embed.projection", "patch_embed.proj"),
        Row("patch_embed.norm", "patch_embed.norm"),
        Row("absolute_pos_embed", _POSITIONS, _AS_TOKENS),
        Row(f"{_MMDET}.norm1", f"{_OFFICIAL}.norm1"),
        Row(f"{_MMDET}.attn.w_msa.qkv", f"{_OFFICIAL}.attn.qkv"),
        Row(f"{_MMDET}.attn.w_msa.proj", f"{_OFFICIAL}.attn.proj"),
        Row(f"{_MMDET}.attn.w_msa.relative_position_bias_table", f"{_OFFICIAL}.attn.relative_position_bias_table"),
        Row(f"{_MMDET}.attn.w_msa.relative_position_index", INDEX),
        Row(f"{_MMDET}.norm2", f"{_OFFICIAL}.norm2"),
        Row(f"{_MMDET}.ffn.layers.0.0", f"{_OFFICIAL}.mlp.fc1"),
        Row(f"{_MMDET}.ffn.layers.1", f"{_OFFICIAL}.mlp.fc2"),
        Row("stages.{i}.downsample.norm", "layers.{i}.downsample.norm", _MERGING_ORDER),
        Row("stages.{i}.downsample.reduction", "layers.{i}.downsample.reduction", _MERGING_ORDER),
        Row("norm{i}", _OUTPUT_NORM),
    ]
)

OPENMMLAB = Format("openmmlab", reading=_OPENMMLAB, forms=(_OPENMMLAB,), around=SAME_NAMES)


def _square(index: Tensor) -> Tensor:
    """Gives (N * N,) positions of token pairs the shape (N, N)."""
    side = isqrt(index.numel())
    return index.reshape(side, side) if index.ndim == 1 else index


_FLAT = Rearrangement("index of token pairs made square", "index of token pairs flattened", _square, Tensor.flatten)

_TORCHVISION = "features.{2i+1}.{j}"

_TORCHVISION_ROWS = Table(
    [
        Row("features.0.0", "patch_embed.proj"),
        Row("features.0.2", "patch_embed.norm"),
        Row(f"{_TORCHVISION}.norm1", f"{_OFFICIAL}.norm1"),
        Row(f"{_TORCHVISION}.attn.qkv", f"{_OFFICIAL}.attn.qkv"),
        Row(f"{_TORCHVISION}.attn.proj", f"{_OFFICIAL}.attn.proj"),
        Row(
            f"{_TORCHVISION}.attn.relative_position_bias_table",
            f"{_OFFICIAL}.attn.relative_position_bias_table",
        ),
        Row(f"{_TORCHVISION}.attn.relative_position_index", INDEX, _FLAT),
        Row(f"{_TORCHVISION}.norm2", f"{_OFFICIAL}.norm2"),
        Row(f"{_TORCHVISION}.mlp.0", f"{_OFFICIAL}.mlp.fc1"),
        Row(f"{_TORCHVISION}.mlp.3", f"{_OFFICIAL}.mlp.fc2"),
        Row("features.{2i+2}.norm", "layers.{i}.downsample.norm"),
        Row("features.{2i+2}.reduction", "layers.{i}.downsample.reduction"),
        Row("norm", "norm"),
        Row("head", "head"),
    ]
)


def _without_embedding(row: Row) -> Row:
    """A row of a model of videos, whose sequence begins with the first stage; its index of token pairs is square."""
    (theirs,), (official,) = row.parts, row.officials
    theirs = theirs.replace("features.{2i+1}", "features.{2i}").replace("features.{2i+2}", "features.{2i+1}")
    return Row(official if official.startswith("patch_embed.") else theirs, official)


_TORCHVISION_VIDEO = Table([_without_embedding(row) for row in _TORCHVISION_ROWS.rows])

TORCHVISION = Format(
    "torchvision",
    reading=Table(dict.fromkeys([*_TORCHVISION_ROWS.rows, *_TORCHVISION_VIDEO.rows])),
    forms=(_TORCHVISION_ROWS,),
    video=_TORCHVISION_VIDEO,
)


_TRANSFORMERS = "encoder.layers.{i}.blocks.{j}"

_ANY_VERSION = [
    Row("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    Row("embeddings.norm", "patch_embed.norm"),
    Row("embeddings.position_embeddings", _POSITIONS, _AS_TOKENS),
    Row(f"{_TRANSFORMERS}.layernorm_before", f"{_OFFICIAL}.norm1"),
    Row(f"{_TRANSFORMERS}.layernorm_after", f"{_OFFICIAL}.norm2"),
    Row("encoder.layers.{i}.downsample.norm", "layers.{i}.downsample.norm"),
    Row("encoder.layers.{i}.downsample.reduction", "layers.{i}.downsample.reduction"),
]

_SAVED_NAMES = [
    Row(
        (
            f"{_TRANSFORMERS}.attention.self.query",
            f"{_TRANSFORMERS}.attention.self.key",
            f"{_TRANSFORMERS}.attention.self.value",
        ),
        f"{_OFFICIAL}.attn.qkv",
    ),
    Row(f"{_TRANSFORMERS}.attention.output.dense", f"{_OFFICIAL}.attn.proj"),
    Row(
        f"{_TRANSFORMERS}.attention.self.relative_position_bias_table",
        f"{_OFFICIAL}.attn.relative_position_bias_table",
    ),
    Row(f"{_TRANSFORMERS}.intermediate.dense", f"{_OFFICIAL}.mlp.fc1"),
    Row(f"{_TRANSFORMERS}.output.dense", f"{_OFFICIAL}.mlp.fc2"),
]

_INDEX_BEFORE_5 = Row(f"{_TRANSFORMERS}.attention.self.relative_position_index", INDEX)

_MODULE_NAMES_SINCE_5 = [
    Row(
        (f"{_TRANSFORMERS}.attention.q_proj", f"{_TRANSFORMERS}.attention.k_proj", f"{_TRANSFORMERS}.attention.v_proj"),
        f"{_OFFICIAL}.attn.qkv",
    ),
    Row(f"{_TRANSFORMERS}.attention.o_proj", f"{_OFFICIAL}.attn.proj"),
    Row(
        f"{_TRANSFORMERS}.attention.relative_position_bias.relative_position_bias_table",
        f"{_OFFICIAL}.attn.relative_position_bias_table",
    ),
    Row(f"{_TRANSFORMERS}.mlp.fc1", f"{_OFFICIAL}.mlp.fc1"),
    Row(f"{_TRANSFORMERS}.mlp.fc2", f"{_OFFICIAL}.mlp.fc2"),
]

_LAST_NORM = Row("layernorm", "norm")
_HEAD = Row("classifier", "head")
_OUTPUT_NORMS = Row("hidden_states_norms.stage{i+1}", _OUTPUT_NORM)
_MASK_TOKEN = Row("embeddings.mask_token", "mask_token")
_DECODER = Row("decoder.0", "decoder.0")


def below(prefix: str, *rows: Row) -> list[Row]:
    """The rows with a prefix before their names."""
    return [row._replace(theirs=tuple(f"{prefix}{part}" for part in row.parts)) for row in rows]


_SAVED = [*_ANY_VERSION, *_SAVED_NAMES]


def _forms(body: Sequence[Row], last_norm_of_backbone: Sequence[Row]) -> tuple[Table, ...]:
    """SwinModel, SwinForImageClassification, SwinBackbone and SwinForMaskedImageModeling."""
    return (
        Table([*body, _LAST_NORM]),
        Table([*below("swin.", *body, _LAST_NORM), _HEAD]),
        Table([*body, *last_norm_of_backbone, _OUTPUT_NORMS]),
        Table([*below("swin.", *body, _LAST_NORM, _MASK_TOKEN), _DECODER]),
    )


_CONV_MODULES = (
    "decode_head.psp_modules.{i}.1",
    "decode_head.bottleneck",
    "decode_head.lateral_convs.{i}",
    "decode_head.fpn_convs.{i}",
    "decode_head.fpn_bottleneck",
    "auxiliary_head.convs.{i}",
    "auxiliary_head.conv_cat",
)
_UPERNET = Table(
    [
        *(Row(f"{head}.classifier", f"{head}.conv_seg") for head in ("decode_head", "auxiliary_head")),
        *(Row(f"{name}.conv", f"{name}.conv") for name in _CONV_MODULES),
        *(Row(f"{name}.batch_norm", f"{name}.bn") for name in _CONV_MODULES),
    ]
)
"""UperNetForSemanticSegmentation: mmseg's UPerHead and FCNHead under other names."""

_ANY_NAME = Table(
    [
        *_SAVED,
        _INDEX_BEFORE_5,
        *_MODULE_NAMES_SINCE_5,
        *(_LAST_NORM, _HEAD, _OUTPUT_NORMS, _MASK_TOKEN, _DECODER),
    ]
)

HUGGINGFACE = Format(
    "huggingface",
    reading=_ANY_NAME,
    forms=_forms(_SAVED, below("swin.", _LAST_NORM)),
    optional_prefix="swin.",
    around=_UPERNET,
    has_buffers=False,
)
HUGGINGFACE_4 = replace(
    HUGGINGFACE, name="huggingface-4", forms=_forms([*_SAVED, _INDEX_BEFORE_5], ()), has_buffers=True
)

FORMATS = {table.name: table for table in (OWN, OFFICIAL, OPENMMLAB, TORCHVISION, TIMM, HUGGINGFACE, HUGGINGFACE_4)}
"""Every weight format by name; `formats_v2` has the same of Swin Transformer V2."""
