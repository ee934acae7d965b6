"""Hugging Face transformers: SwinModel, SwinBackbone, SwinForImageClassification and what is built on them.

Since version 5 the attention's names are new; checkpoints, also those that it writes, keep the old ones. Both are read.
Version 4 holds the index of relative positions too, and leaves it without values where a file lacks it.
The classes around SwinModel put `swin.` before its names, in part only where SwinBackbone was saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from swin_dense.weights.formats.official import AS_TOKENS, INDEX, OUTPUT_NORM, POSITIONS
from swin_dense.weights.formats.table import Format, Row, Table

_BLOCK = "encoder.layers.{i}.blocks.{j}"
_OFFICIAL = "layers.{i}.blocks.{j}"

_ROWS = [
    Row("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    Row("embeddings.norm", "patch_embed.norm"),
    Row("embeddings.position_embeddings", POSITIONS, AS_TOKENS),
    Row(f"{_BLOCK}.layernorm_before", f"{_OFFICIAL}.norm1"),
    Row(f"{_BLOCK}.layernorm_after", f"{_OFFICIAL}.norm2"),
    Row("encoder.layers.{i}.downsample.norm", "layers.{i}.downsample.norm"),
    Row("encoder.layers.{i}.downsample.reduction", "layers.{i}.downsample.reduction"),
]

_SAVED_NAMES = [
    Row(
        (
            f"{_BLOCK}.attention.self.query",
            f"{_BLOCK}.attention.self.key",
            f"{_BLOCK}.attention.self.value",
        ),
        f"{_OFFICIAL}.attn.qkv",
    ),
    Row(f"{_BLOCK}.attention.output.dense", f"{_OFFICIAL}.attn.proj"),
    Row(
        f"{_BLOCK}.attention.self.relative_position_bias_table",
        f"{_OFFICIAL}.attn.relative_position_bias_table",
    ),
    Row(f"{_BLOCK}.intermediate.dense", f"{_OFFICIAL}.mlp.fc1"),
    Row(f"{_BLOCK}.output.dense", f"{_OFFICIAL}.mlp.fc2"),
]

_INDEX_BEFORE_5 = Row(f"{_BLOCK}.attention.self.relative_position_index", INDEX)

_MODULE_NAMES_SINCE_5 = [
    Row(
        (f"{_BLOCK}.attention.q_proj", f"{_BLOCK}.attention.k_proj", f"{_BLOCK}.attention.v_proj"),
        f"{_OFFICIAL}.attn.qkv",
    ),
    Row(f"{_BLOCK}.attention.o_proj", f"{_OFFICIAL}.attn.proj"),
    Row(
        f"{_BLOCK}.attention.relative_position_bias.relative_position_bias_table",
        f"{_OFFICIAL}.attn.relative_position_bias_table",
    ),
    Row(f"{_BLOCK}.mlp.fc1", f"{_OFFICIAL}.mlp.fc1"),
    Row(f"{_BLOCK}.mlp.fc2", f"{_OFFICIAL}.mlp.fc2"),
]

_LAST_NORM = Row("layernorm", "norm")
_HEAD = Row("classifier", "head")
_OUTPUT_NORMS = Row("hidden_states_norms.stage{i+1}", OUTPUT_NORM)
_MASK_TOKEN = Row("embeddings.mask_token", "mask_token")
_DECODER = Row("decoder.0", "decoder.0")


def _below_swin(*rows: Row) -> list[Row]:
    """The rows with `swin.` before their names."""
    return [row._replace(theirs=tuple(f"swin.{part}" for part in row.parts)) for row in rows]


_BODY = [*_ROWS, *_SAVED_NAMES]


def _forms(body: Sequence[Row], last_norm_of_backbone: Sequence[Row]) -> tuple[Table, ...]:
    """SwinModel, SwinForImageClassification, SwinBackbone and SwinForMaskedImageModeling."""
    return (
        Table([*body, _LAST_NORM]),
        Table([*_below_swin(*body, _LAST_NORM), _HEAD]),
        Table([*body, *last_norm_of_backbone, _OUTPUT_NORMS]),
        Table([*_below_swin(*body, _LAST_NORM, _MASK_TOKEN), _DECODER]),
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

_READING = Table(
    [
        *_BODY,
        _INDEX_BEFORE_5,
        *_MODULE_NAMES_SINCE_5,
        *(_LAST_NORM, _HEAD, _OUTPUT_NORMS, _MASK_TOKEN, _DECODER),
    ]
)

HUGGINGFACE = Format(
    "huggingface",
    reading=_READING,
    forms=_forms(_BODY, _below_swin(_LAST_NORM)),
    optional_prefix="swin.",
    around=_UPERNET,
    has_buffers=False,
)
HUGGINGFACE_4 = replace(
    HUGGINGFACE, name="huggingface-4", forms=_forms([*_BODY, _INDEX_BEFORE_5], ()), has_buffers=True
)
