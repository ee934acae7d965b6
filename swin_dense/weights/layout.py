"""Detects the format of a state dict by its key names, and takes it apart into a backbone and what surrounds it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from torch import Tensor

from swin_dense.errors import WeightsError
from swin_dense.weights.formats import INDEX, MASK, VIDEO_HEAD
from swin_dense.weights.formats_v2 import COORDINATES, format_named, formats_of
from swin_dense.weights.names import shortened
from swin_dense.weights.tables import Converted, Format, Name

_BUFFERS = (Name(INDEX), Name(MASK), Name(COORDINATES))
_BLOCK = Name("layers.{i}.blocks.{j}.norm1")
_MERGING = Name("layers.{i}.downsample.reduction")
_TEMPERATURE = re.compile(r"\.(attn|attention\.self)\.logit_scale$")


class Layout(NamedTuple):
    """Where a state dict holds a Swin backbone."""

    format: Format  # reads the keys under the prefix
    prefix: str  # before the backbone's names, such as `backbone.` or nothing


def root_of(prefix: str) -> str:
    """What stands before the names of a backbone's neighbours: `module.` where its prefix is `module.backbone.`."""
    return "".join(re.findall(r"[^.]*\.", prefix)[:-1])


class Parts(NamedTuple):
    """A checkpoint of a known format, taken apart."""

    layout: Layout
    backbone: dict[str, Converted]  # by official name, without prefix
    around: dict[str, Converted]  # by the names of mmdet and mmseg, without what stood before all names
    unmatched: tuple[str, ...]  # keys in the place of the backbone that the format does not have
    foreign: tuple[str, ...]  # names in `around` that the format does not know: the checkpoint's own


def detect_layout(keys: Collection[str], name: str = "auto") -> Layout:
    """Finds the format (a name, or "auto") and the place of the backbone in a state dict.

    The patch embedding's name gives the prefix; then the stages and the patch mergings between them must fit together,
    which distinguishes timm's names from the official ones. Buffers distinguish files of the official code from ours,
    and those of transformers 4 from those of 5.
    """
    layouts = [Layout(table, prefix) for table in _tables(keys, name) for prefix in _prefixes(table, keys)]
    layouts = [layout for layout in layouts if (_fits if name == "auto" else _has_blocks)(layout, keys)]
    if len(layouts) > 1:
        found = ", ".join(f"{layout.format.name} under '{layout.prefix}'" for layout in layouts)
        raise WeightsError(
            f"the keys fit several formats: {found}; name one with format=, or keep one model in the file"
        )
    if not layouts:
        raise WeightsError(_describe_unknown(keys, name))
    return layouts[0]


def take_apart(tensors: Mapping[str, Tensor], format_name: str, keys: Mapping[str, str] | None = None) -> Parts:
    """Finds the backbone and translates all names; `keys` gives the checkpoint's key of each name, where it differs."""
    layout = detect_layout(tensors, format_name)
    inside = {key.removeprefix(layout.prefix): key for key in tensors if key.startswith(layout.prefix)}
    root = root_of(layout.prefix)
    beside = {key.removeprefix(root): key for key in tensors if not key.startswith(layout.prefix)}
    # The head of a classifier of videos is a part of the backbone's names here, as that of a classifier of images is.
    inside |= {name: beside.pop(name) for name in [*beside] if name.startswith(f"{VIDEO_HEAD}.")}
    backbone, unmatched = layout.format.to_official({name: tensors[key] for name, key in inside.items()})
    if any(name.startswith(f"{VIDEO_HEAD}.") for name in inside):  # mmaction2 names the last norm after its stage
        last = f"norm{max(int(name.split('.')[1]) for name in backbone if name.startswith('layers.'))}."
        backbone = {
            (f"norm.{name.removeprefix(last)}" if name.startswith(last) else name): item
            for name, item in backbone.items()
        }
    translated, others = layout.format.around.to_official({name: tensors[key] for name, key in beside.items()})
    around = {**translated, **{name: Converted(tensors[beside[name]], (name,)) for name in others}}
    if keys is not None:
        inside, beside = ({name: keys[key] for name, key in part.items()} for part in (inside, beside))
    return Parts(
        layout=layout,
        backbone={name: item.made_of(inside) for name, item in backbone.items()},
        around={name: item.made_of(beside) for name, item in around.items()},
        unmatched=tuple(inside[name] for name in unmatched),
        foreign=others,
    )


def _tables(keys: Collection[str], name: str) -> list[Format]:
    """The formats of this name, or all for "auto", of the version that temperatures in the place of tables tell."""
    has_tables = any(key.endswith("relative_position_bias_table") for key in keys)
    version = 2 if not has_tables and any(_TEMPERATURE.search(key) for key in keys) else 1
    return [*formats_of(version).values()] if name == "auto" else [format_named(name, version)]


def _prefixes(table: Format, keys: Collection[str]) -> list[str]:
    """Every prefix under which this format's patch embedding stands."""
    anchors = [
        f"{part}.weight" for row in table.reading.rows if row.official == "patch_embed.proj" for part in row.parts
    ]
    return [
        key.removesuffix(anchor).removesuffix(table.optional_prefix)
        for anchor in anchors
        for key in keys
        if key == anchor or key.endswith(f".{anchor}")
    ]


def _has_blocks(layout: Layout, keys: Collection[str]) -> bool:
    """Whether the format reads a block under the prefix."""
    inside = (key.removeprefix(layout.prefix) for key in keys if key.startswith(layout.prefix))
    readings = (layout.format.read(key) for key in inside)
    return any(reading is not None and _BLOCK.match(reading.official) is not None for reading in readings)


def _fits(layout: Layout, keys: Collection[str]) -> bool:
    """Whether the stages are 0..n-1, with a patch merging at the end of each but the last, and the buffers too."""
    stages, mergings, has_buffers = set(), set(), False
    for key in keys:
        reading = layout.format.read(key.removeprefix(layout.prefix)) if key.startswith(layout.prefix) else None
        if reading is None:
            continue
        if (block := _BLOCK.match(reading.official)) is not None:
            stages.add(block[0]["i"])
        if (merging := _MERGING.match(reading.official)) is not None:
            mergings.add(merging[0]["i"])
        has_buffers = has_buffers or any(buffer.match(reading.official) is not None for buffer in _BUFFERS)
    return (
        bool(stages)
        and stages == set(range(len(stages)))
        and mergings == set(range(len(stages) - 1))
        and layout.format.has_buffers in (None, has_buffers)
    )


def _describe_unknown(keys: Collection[str], name: str) -> str:
    """Names the format that has most of the keys, and the first keys that it does not have."""
    others = {table.name: [key for key in keys if not _reads_somewhere(table, key)] for table in _tables(keys, name)}
    closest = min(others, key=lambda table: len(others[table]))
    wanted = "any known format" if name == "auto" else f"the {name} format"
    if len(others[closest]) == len(keys):
        return f"no Swin weights in {wanted}; the keys are: {_first(keys)}"
    count = f"the nearest is {closest}, which has {len(keys) - len(others[closest])} of the {len(keys)} keys"
    if others[closest]:
        return f"no Swin weights in {wanted}; {count} but not: {_first(others[closest])}"
    return (
        f"no whole Swin in {wanted}; {count}; the patch embedding, a stage or a patch merging between stages is missing"
    )


def _first(keys: Collection[str], shown: int = 5) -> str:
    return ", ".join(map(shortened, [*keys][:shown])) + (", ..." if len(keys) > shown else "") if keys else "none"


def _reads_somewhere(table: Format, key: str) -> bool:
    """Whether the table has the key under any prefix; a `norm` or `head` is in any model and tells nothing."""
    words = key.split(".")
    readings = [table.read(".".join(words[start:])) for start in range(len(words))]
    return any(reading.official.split(".")[0] not in ("norm", "head") for reading in readings if reading is not None)
