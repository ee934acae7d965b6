"""A weight format as tables: one row per module, from the names of another library to the official dense ones.

A name holds `{i}` for the stage and `{j}` for the block. The stage may be written as a line, `{i+1}` or `{2i+1}`, where
the other library counts differently. A name stands for the tensors of a module, such as `weight` and `bias`, or for a
parameter itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from swin_dense.errors import WeightsError

_FIELD = re.compile(r"\{(?P<scale>\d*)(?P<index>[ij])(?P<offset>\+\d+)?\}")
_LEAVES = r"\.weight|\.bias|\.running_mean|\.running_var|\.num_batches_tracked"


class Name:
    """A name with stage and block fields, such as `features.{2i+1}.{j}.norm1`, that is matched and filled."""

    def __init__(self, template: str) -> None:
        self.template = template
        self._lines = {m["index"]: (int(m["scale"] or 1), int(m["offset"] or 0)) for m in _FIELD.finditer(template)}
        pattern = re.sub(r"\\\{\d*([ij])(?:\\\+\d+)?\\\}", r"(?P<\1>0|[1-9][0-9]{0,3})", re.escape(template))
        self._pattern = re.compile(rf"{pattern}(?P<leaf>{_LEAVES})?")

    def match(self, key: str) -> tuple[dict[str, int], str] | None:
        """Splits a key into the values of its fields and its leaf (such as `.weight`, or nothing); None if another."""
        found = self._pattern.fullmatch(key)
        if found is None:
            return None
        indices = {}
        for index, (scale, offset) in self._lines.items():
            quotient, remainder = divmod(int(found[index]) - offset, scale)
            if remainder or quotient < 0:
                return None
            indices[index] = quotient
        return indices, found["leaf"] or ""

    def fill(self, indices: Mapping[str, int], leaf: str) -> str:
        """The key for these values of the fields."""

        def value(field: re.Match[str]) -> str:
            scale, offset = self._lines[field["index"]]
            return str(scale * indices[field["index"]] + offset)

        return _FIELD.sub(value, self.template) + leaf


@dataclass(frozen=True)
class Rearrangement:
    """A change of values that goes with a change of name; values that it leaves are handed back themselves."""

    reason: str  # what `to_official` does, for the report
    reason_back: str
    to_official: Callable[[Tensor], Tensor]
    from_official: Callable[[Tensor], Tensor]  # the exact inverse


class Row(NamedTuple):
    """One row of a table."""

    theirs: str | tuple[str, ...]  # several names are parts of one tensor, in order along its first dimension
    official: str | tuple[str, ...]  # the same
    rearrangement: Rearrangement | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of `theirs`, one or several."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs

    @property
    def officials(self) -> tuple[str, ...]:
        """The names of `official`, one or several."""
        return (self.official,) if isinstance(self.official, str) else self.official


class Reading(NamedTuple):
    """What a table makes of one key: the names on the other side, and which part of which row the key is."""

    names: tuple[str, ...]
    row: Row
    part: int

    @property
    def official(self) -> str:
        """The official name, where the other side is that; the first of several."""
        return self.names[0]


@dataclass(frozen=True)
class Converted:
    """A tensor under a new name."""

    tensor: Tensor
    keys: tuple[str, ...]  # the keys that it was made of
    change: str = ""  # what was done to the values; empty if nothing
    resized: bool = False  # to another window

    def made_of(self, keys: Mapping[str, str]) -> Converted:
        """The same under other names of the keys that it was made of."""
        return replace(self, keys=tuple(keys[key] for key in self.keys))


class Table:
    """Names of another library and the official ones, one row per module.

    Where several rows give one official name, `from_official` writes the first. With `others_keep_names` the table has
    every other name too, as it is.
    """

    def __init__(self, rows: Iterable[Row] = (), *, others_keep_names: bool = False) -> None:
        self.rows = tuple(rows)
        self.others_keep_names = others_keep_names
        sides = [([*map(Name, row.parts)], [*map(Name, row.officials)], row) for row in self.rows]
        self._theirs = [(name, to, row, part) for names, to, row in sides for part, name in enumerate(names)]
        self._official = [(name, to, row, part) for to, names, row in sides for part, name in enumerate(names)]

    def read(self, key: str) -> Reading | None:
        """Looks up a key of the other library; None if the table does not have it."""
        return self._look_up(key, self._theirs)

    def write(self, official: str) -> Reading | None:
        """Looks up an official key; gives the other library's names, or None if the table has no place for it."""
        return self._look_up(official, self._official)

    def _look_up(self, key: str, side: Sequence[tuple[Name, list[Name], Row, int]]) -> Reading | None:
        for name, others, row, part in side:
            if (match := name.match(key)) is not None:
                return Reading(tuple(other.fill(*match) for other in others), row, part)
        return Reading((key,), Row(key, key), 0) if self.others_keep_names else None

    def to_official(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Converted], tuple[str, ...]]:
        """Renames and rearranges tensors of the other library; also gives the keys that the table does not have."""
        gathered: dict[tuple[str, ...], tuple[Row, dict[int, str]]] = {}
        unmatched = []
        for key in tensors:
            reading = self.read(key)
            if reading is None:
                unmatched.append(key)
                continue
            row, keys = gathered.setdefault(reading.names, (reading.row, {}))
            if row is not reading.row or reading.part in keys:
                raise WeightsError(f"{next(iter(keys.values()))} and {key} both stand for {', '.join(reading.names)}")
            keys[reading.part] = key
        converted: dict[str, Converted] = {}
        for names, (row, keys) in gathered.items():
            done = row.rearrangement
            change = None if done is None else (done.to_official, done.reason)
            ordered = _in_order(names, row.officials, row.parts, keys)
            converted |= _rebuilt(names, ordered, tensors, change)
        return converted, tuple(unmatched)

    def from_official(self, tensors: Mapping[str, Tensor]) -> dict[str, Converted]:
        """Renames and rearranges official tensors: the inverse of `to_official`, bit for bit."""
        gathered: dict[tuple[str, ...], tuple[Row, dict[int, str]]] = {}
        for key in tensors:
            writing = self.write(key)
            if writing is None:
                raise WeightsError(f"there is no name for {key}")
            gathered.setdefault(writing.names, (writing.row, {}))[1][writing.part] = key
        converted: dict[str, Converted] = {}
        for names, (row, keys) in gathered.items():
            done = row.rearrangement
            change = None if done is None else (done.from_official, done.reason_back)
            ordered = _in_order(names, row.parts, row.officials, keys)
            converted |= _rebuilt(names, ordered, tensors, change)
        return converted


def _in_order(
    names: Sequence[str], side: Sequence[str], other: Sequence[str], keys: Mapping[int, str]
) -> tuple[str, ...]:
    """The keys of all parts of a row, whose names on this `side` and on the `other` it has as templates."""
    if len(keys) < len(other):
        match = Name(side[0]).match(names[0])
        assert match is not None
        absent = [Name(template).fill(*match) for part, template in enumerate(other) if part not in keys]
        raise WeightsError(f"{', '.join(names)} is joined of {len(other)} tensors; missing: {', '.join(absent)}")
    return tuple(keys[part] for part in range(len(other)))


def _rebuilt(
    names: Sequence[str],
    keys: tuple[str, ...],
    tensors: Mapping[str, Tensor],
    change: tuple[Callable[[Tensor], Tensor], str] | None,
) -> dict[str, Converted]:
    """Joins tensors, rearranges the values, and splits them again, into as many tensors as there are names."""
    values = [tensors[key] for key in keys]
    try:
        joined = torch.cat(values) if len(values) > 1 else values[0]
        tensor = joined if change is None else change[0](joined)
        parts = tensor.tensor_split(len(names)) if len(names) > 1 else (tensor,)
    except (RuntimeError, IndexError) as error:
        raise WeightsError(f"{', '.join(names)} cannot be made of {_shapes(keys, values)}: {error}") from error
    if len({part.shape for part in parts}) > 1:
        raise WeightsError(f"{_shapes(keys, values)} cannot be split into {len(names)} equal tensors")
    done = [f"{len(values)} tensors joined"] if len(values) > 1 else []
    if change is not None and tensor is not joined:
        done.append(change[1])
    done += [f"split into {len(names)} tensors"] if len(names) > 1 else []
    return {name: Converted(part, keys, ", ".join(done)) for name, part in zip(names, parts, strict=True)}


SAME_NAMES = Table(others_keep_names=True)


def is_video(official: Mapping[str, Tensor]) -> bool:
    """Whether a backbone, by official names without prefix, is one of videos: its patches have frames."""
    embedding = official.get("patch_embed.proj.weight")
    return embedding is not None and embedding.ndim == 5


def _shapes(keys: Sequence[str], values: Sequence[Tensor]) -> str:
    return ", ".join(f"{key} {tuple(value.shape)}" for key, value in zip(keys, values, strict=True))


@dataclass(frozen=True)
class Format:
    """The tables of one library, and what its files hold beside a backbone.

    Attributes:
        name: The public name, as in `load_weights(..., format=name)`.
        reading: Every name of a backbone, or of a classifier around it, that files of this format hold.
        forms: What is written: one table per class of the library, which names things in its own way or lacks some.
        optional_prefix: A prefix that some classes of that library put before some of the names.
        around: Names around the backbone in detectors and segmenters, against those of mmdet and mmseg; perhaps none.
        version: Of the Swin Transformer in the files.
        has_buffers: Whether files hold computed tensors, where this distinguishes formats of the same names.
        wrapper: The entry of a `torch.save` file under which the library looks for the weights; empty if at the top.
        video: What is written of a model of videos; None where the library has none.
        video_wrapper: `wrapper` of such files.
    """

    name: str
    reading: Table
    forms: tuple[Table, ...]
    optional_prefix: str = ""
    around: Table = Table()
    version: int = 1
    has_buffers: bool | None = None
    wrapper: str = ""
    video: Table | None = None
    video_wrapper: str = ""

    def read(self, key: str) -> Reading | None:
        """Looks a key of this format up; None if the format does not have it."""
        return self.reading.read(key.removeprefix(self.optional_prefix))

    def to_official(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Converted], tuple[str, ...]]:
        """Renames and rearranges the tensors of a backbone; also gives the keys that the format does not have."""
        keys: dict[str, str] = {}
        for key in tensors:
            bare = key.removeprefix(self.optional_prefix)
            if bare in keys:
                raise WeightsError(f"{keys[bare]} and {key} both stand for one parameter")
            keys[bare] = key
        official, unmatched = self.reading.to_official({bare: tensors[key] for bare, key in keys.items()})
        return {name: item.made_of(keys) for name, item in official.items()}, tuple(keys[key] for key in unmatched)

    def form_for(self, official: Mapping[str, Tensor]) -> Table:
        """The form that has a place for most of these official names; that of videos for their patch embedding."""
        if is_video(official):
            if self.video is None:
                raise WeightsError(f"the {self.name} format has no models of videos")
            return self.video
        return max(self.forms, key=lambda form: sum(form.write(name) is not None for name in official))

    def from_official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renames and rearranges the tensors of a backbone into this format: the inverse of `to_official`."""
        form = self.form_for(tensors)
        if homeless := [name for name in tensors if form.write(name) is None]:
            raise WeightsError(f"the {self.name} format has no name for {', '.join(homeless)}")
        return {name: item.tensor for name, item in form.from_official(tensors).items()}
