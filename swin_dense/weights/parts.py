"""Takes a checkpoint apart: the backbone, and what stands around it, under the names that all formats share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from swin_dense.weights.formats import Converted, Layout, detect_layout, root_of


class Parts(NamedTuple):
    """A checkpoint of a known format.

    Attributes:
        layout: The format, and where the backbone was.
        backbone: Tensors of the backbone by official name, without prefix.
        around: Tensors of what surrounds it by the names of mmdet and mmseg, without what stood before all names.
        unmatched: Keys in the place of the backbone that the format does not have.
        foreign: Names in `around` that the format does not know, and that are therefore the checkpoint's own.
    """

    layout: Layout
    backbone: dict[str, Converted]
    around: dict[str, Converted]
    unmatched: tuple[str, ...]
    foreign: tuple[str, ...]


def take_apart(tensors: Mapping[str, Tensor], format_name: str) -> Parts:
    """Finds the backbone and translates all names.

    Args:
        tensors: A state dict.
        format_name: A name in `FORMATS`, or "auto".

    Returns:
        The parts. `Converted.keys` are keys of the state dict.

    Raises:
        WeightsError: The format is unknown, ambiguous, or the tensors do not fit together.
    """
    layout = detect_layout(tensors, format_name)
    inside = {key.removeprefix(layout.prefix): key for key in tensors if key.startswith(layout.prefix)}
    root = root_of(layout.prefix)
    beside = {key.removeprefix(root): key for key in tensors if not key.startswith(layout.prefix)}
    backbone, unmatched = layout.format.to_official({name: tensors[key] for name, key in inside.items()})
    translated, others = layout.format.around.to_official({name: tensors[key] for name, key in beside.items()})
    own_names = {name: Converted(tensors[beside[name]], (name,)) for name in others}
    return Parts(
        layout=layout,
        backbone=_with_keys(backbone, inside),
        around=_with_keys({**translated, **own_names}, beside),
        unmatched=tuple(inside[name] for name in unmatched),
        foreign=others,
    )


def _with_keys(converted: Mapping[str, Converted], keys: Mapping[str, str]) -> dict[str, Converted]:
    """The same, made of the full keys of the checkpoint."""
    return {
        name: Converted(item.tensor, tuple(keys[key] for key in item.keys), item.change)
        for name, item in converted.items()
    }
