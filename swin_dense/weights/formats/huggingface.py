"""Hugging Face transformers: SwinModel, SwinBackbone, SwinForImageClassification and what is built on them.

Since version 5 the attention's names are new; checkpoints, also those that it writes, keep the old ones. Both are read.
The classes around SwinModel put `swin.` before its names, in part only where SwinBackbone was saved.
"""

from __future__ import annotations

from swin_dense.weights.formats.table import Format, Row

_BLOCK = "encoder.layers.{i}.blocks.{j}"
_OFFICIAL = "layers.{i}.blocks.{j}"

_ROWS = [
    Row("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    Row("embeddings.norm", "patch_embed.norm"),
    Row("embeddings.position_embeddings", "absolute_pos_embed"),
    Row("embeddings.mask_token", "mask_token"),
    Row(f"{_BLOCK}.layernorm_before", f"{_OFFICIAL}.norm1"),
    Row(f"{_BLOCK}.layernorm_after", f"{_OFFICIAL}.norm2"),
    Row("encoder.layers.{i}.downsample.norm", "layers.{i}.downsample.norm"),
    Row("encoder.layers.{i}.downsample.reduction", "layers.{i}.downsample.reduction"),
    Row("hidden_states_norms.stage{i+1}", "norm{i}"),
    Row("layernorm", "norm"),
    Row("classifier", "head"),
    Row("decoder.0", "decoder.0"),
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
    Row(f"{_BLOCK}.attention.self.relative_position_index", f"{_OFFICIAL}.attn.relative_position_index"),
    Row(f"{_BLOCK}.intermediate.dense", f"{_OFFICIAL}.mlp.fc1"),
    Row(f"{_BLOCK}.output.dense", f"{_OFFICIAL}.mlp.fc2"),
]

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

HUGGINGFACE = Format("huggingface", [*_ROWS, *_SAVED_NAMES, *_MODULE_NAMES_SINCE_5], optional_prefix="swin.")
