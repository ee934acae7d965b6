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
    official: str
    rearrangement: Rearrangement | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of `theirs`, one or several."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


class Reading(NamedTuple):
    """What a table makes of one key: the official name, and which part of which row the key is."""

    official: str
    row: Row
    part: int


@dataclass(frozen=True)
class Converted:
    """A tensor under a new name."""

    tensor: Tensor
    keys: tuple[str, ...]  # the keys that it was made of
    change: str = ""  # what was done to the values; empty if nothing

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
        self._theirs = [
            (Name(theirs), Name(row.official), row, part) for row in self.rows for part, theirs in enumerate(row.parts)
        ]
        self._official = [(Name(row.official), [Name(theirs) for theirs in row.parts], row) for row in self.rows]

    def read(self, key: str) -> Reading | None:
        """Looks up a key of the other library; None if the table does not have it."""
        for theirs, official, row, part in self._theirs:
            if (match := theirs.match(key)) is not None:
                return Reading(official.fill(*match), row, part)
        return Reading(key, Row(key, key), 0) if self.others_keep_names else None

    def write(self, official: str) -> tuple[tuple[str, ...], Row] | None:
        """Looks up an official key; gives the other library's keys and the row, or None if the table has no place."""
        for name, theirs, row in self._official:
            if (match := name.match(official)) is not None:
                return tuple(part.fill(*match) for part in theirs), row
        return ((official,), Row(official, official)) if self.others_keep_names else None

    def to_official(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Converted], tuple[str, ...]]:
        """Renames and rearranges tensors of the other library; also gives the keys that the table does not have."""
        gathered: dict[str, tuple[Row, dict[int, str]]] = {}
        unmatched = []
        for key in tensors:
            reading = self.read(key)
            if reading is None:
                unmatched.append(key)
                continue
            row, keys = gathered.setdefault(reading.official, (reading.row, {}))
            if row is not reading.row or reading.part in keys:
                raise WeightsError(f"{next(iter(keys.values()))} and {key} both stand for {reading.official}")
            keys[reading.part] = key
        return {name: self._join(name, row, keys, tensors) for name, (row, keys) in gathered.items()}, tuple(unmatched)

    def _join(self, official: str, row: Row, keys: Mapping[int, str], tensors: Mapping[str, Tensor]) -> Converted:
        if len(keys) < len(row.parts):
            match = Name(row.official).match(official)
            assert match is not None
            absent = [Name(theirs).fill(*match) for part, theirs in enumerate(row.parts) if part not in keys]
            raise WeightsError(f"{official} is joined of {len(row.parts)} tensors; missing: {', '.join(absent)}")
        ordered = tuple(keys[part] for part in range(len(row.parts)))
        values = [tensors[key] for key in ordered]
        try:
            joined = torch.cat(values) if len(values) > 1 else values[0]
            tensor = joined if row.rearrangement is None else row.rearrangement.to_official(joined)
        except (RuntimeError, IndexError) as error:
            raise WeightsError(f"{official} cannot be made of {_shapes(ordered, values)}: {error}") from error
        changes = [f"{len(values)} tensors joined"] if len(values) > 1 else []
        if row.rearrangement is not None and tensor is not joined:
            changes.append(row.rearrangement.reason)
        return Converted(tensor, ordered, ", ".join(changes))

    def from_official(self, tensors: Mapping[str, Tensor]) -> dict[str, Converted]:
        """Renames and rearranges official tensors: the inverse of `to_official`, bit for bit."""
        result = {}
        for key, tensor in tensors.items():
            found = self.write(key)
            if found is None:
                raise WeightsError(f"there is no name for {key}")
            names, row = found
            try:
                values = tensor if row.rearrangement is None else row.rearrangement.from_official(tensor)
                parts = values.tensor_split(len(names)) if len(names) > 1 else (values,)
            except (RuntimeError, IndexError) as error:
                raise WeightsError(
                    f"{', '.join(names)} cannot be made of {_shapes([key], [tensor])}: {error}"
                ) from error
            if len({part.shape for part in parts}) > 1:
                raise WeightsError(f"{key} {tuple(tensor.shape)} cannot be split into {len(names)} equal tensors")
            changes = [f"split into {len(names)} tensors"] if len(names) > 1 else []
            if row.rearrangement is not None and values is not tensor:
                changes.append(row.rearrangement.reason_back)
            for name, part in zip(names, parts, strict=True):
                result[name] = Converted(part, (key,), ", ".join(changes))
        return result


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
