"""The weight formats of Swin Transformer V2: what differs from those of the first version.

Keys have no bias: all libraries but torchvision keep those of query and value apart, and torchvision's bias of all
three is zero where keys are. The position bias is a network, `cpb_mlp`, on offsets that files of the official code and
of torchvision hold as a buffer. Nothing else in a file says how large the windows are: buffers that the source lacks
are written for windows of `WINDOW` tokens a side. mmdet and mmseg have no Swin Transformer V2, and transformers gives
it the same names in versions 4 and 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from swin_dense.errors import WeightsError, nearest
from swin_dense.weights.formats import FORMATS, HUGGINGFACE, OFFICIAL, OWN, TIMM, TORCHVISION, below
from swin_dense.weights.tables import Format, Rearrangement, Row, Table

WINDOW = 8
"""Side of the windows of the models that torchvision publishes, and of the smallest official ones."""

_ATTENTION = "layers.{i}.blocks.{j}.attn"
COORDINATES = f"{_ATTENTION}.relative_coords_table"
_NAMES = ("qkv.weight", "q_bias", "v_bias", "logit_scale", "cpb_mlp.0", "cpb_mlp.2")
_VERSION_1 = (f"{_ATTENTION}.qkv", f"{_ATTENTION}.relative_position_bias_table")


def _attention(theirs: str, names: Iterable[str] = _NAMES) -> list[Row]:
    """Rows for names that are the official ones but for what stands before them."""
    return [Row(f"{theirs}.{name}", f"{_ATTENTION}.{name}") for name in names]


def _table(rows: Iterable[Row], attention: Iterable[Row]) -> Table:
    """A table of the first version with the attention of the second."""
    return Table([*(row for row in rows if row.official not in _VERSION_1), *attention])


def _of_version_2(format: Format, attention: list[Row], also_read: Iterable[Row] = ()) -> Format:
    return replace(
        format,
        reading=_table(format.reading.rows, [*attention, *also_read]),
        forms=tuple(_table(form.rows, attention) for form in format.forms),
        version=2,
        video=None,
    )


def _without_key(bias: Tensor) -> Tensor:
    """The biases (2C,) of query and value, of those of all three (3C,)."""
    query, _, value = bias.view(3, -1)
    return torch.cat((query, value))


def _with_key(bias: Tensor) -> Tensor:
    """The biases (3C,) of query, key and value, zero for the key, of those of the other two (2C,)."""
    query, value = bias.view(2, -1)
    return torch.cat((query, torch.zeros_like(query), value))


_KEY_BIAS = Rearrangement("bias of the key left out", "zero as bias of the key", _without_key, _with_key)

_COORDINATES = Row(COORDINATES, COORDINATES)
_SAME = _attention(_ATTENTION)
_TIMM_FLATTENED = _attention(_ATTENTION.replace("layers.", "layers_", 1))
_OF_TORCHVISION = "features.{2i+1}.{j}.attn"
_TORCHVISION = [
    *_attention(_OF_TORCHVISION, ("qkv.weight", "logit_scale", "cpb_mlp.0", "cpb_mlp.2")),
    Row(f"{_OF_TORCHVISION}.qkv.bias", (f"{_ATTENTION}.q_bias", f"{_ATTENTION}.v_bias"), _KEY_BIAS),
    Row(f"{_OF_TORCHVISION}.relative_coords_table", COORDINATES),
]

_OF_TRANSFORMERS = "encoder.layers.{i}.blocks.{j}.attention"
_QUERY, _KEY, _VALUE = (f"{_OF_TRANSFORMERS}.self.{name}" for name in ("query", "key", "value"))
_TRANSFORMERS = [
    Row((f"{_QUERY}.weight", f"{_KEY}.weight", f"{_VALUE}.weight"), f"{_ATTENTION}.qkv.weight"),
    Row(f"{_QUERY}.bias", f"{_ATTENTION}.q_bias"),
    Row(f"{_VALUE}.bias", f"{_ATTENTION}.v_bias"),
    Row(f"{_OF_TRANSFORMERS}.self.logit_scale", f"{_ATTENTION}.logit_scale"),
    *(
        Row(f"{_OF_TRANSFORMERS}.self.continuous_position_bias_mlp.{layer}", f"{_ATTENTION}.cpb_mlp.{layer}")
        for layer in (0, 2)
    ),
]


def _of_transformers() -> Format:
    """Swinv2Model, Swinv2ForImageClassification, Swinv2Backbone, which has no norms, and masked pre-training."""
    reading = _table(HUGGINGFACE.reading.rows, _TRANSFORMERS)
    model, classifier, _, pretraining = HUGGINGFACE.forms
    last, beside = model.rows[-1], ("head", "mask_token", "decoder.0")
    body = [*_table(model.rows[:-1], _TRANSFORMERS).rows]
    below_swin = below("swinv2.", *body, last)
    heads = [row for row in classifier.rows if row.official in beside]
    token, decoder = (row for row in pretraining.rows if row.official in beside)
    token = Row("swinv2.embeddings.mask_token", token.official)
    forms = [*body, last], [*below_swin, *heads], body, [*below_swin, token, decoder]
    tables = tuple(map(Table, forms))
    return replace(HUGGINGFACE, reading=reading, forms=tables, optional_prefix="swinv2.", version=2, has_buffers=None)


FORMATS_V2 = {
    table.name: table
    for table in (
        _of_version_2(OWN, _SAME, [_COORDINATES]),
        _of_version_2(OFFICIAL, [*_SAME, _COORDINATES]),
        _of_version_2(replace(TORCHVISION, reading=TORCHVISION.forms[0]), _TORCHVISION),
        _of_version_2(TIMM, _SAME, [_COORDINATES, *_TIMM_FLATTENED]),
        _of_transformers(),
    )
}
"""Every weight format of Swin Transformer V2, under the same names."""


def formats_of(version: int) -> dict[str, Format]:
    """The formats of a version of the Swin Transformer, by name."""
    return FORMATS_V2 if version == 2 else FORMATS


def format_named(name: str, version: int = 1) -> Format:
    """The format of this name."""
    if name not in FORMATS:
        raise WeightsError(f'unknown weight format "{name}"; {nearest(name, FORMATS)}')
    if name not in formats_of(version):
        raise WeightsError(f"the {name} format has no Swin Transformer V2; {', '.join(FORMATS_V2)} have it")
    return formats_of(version)[name]
