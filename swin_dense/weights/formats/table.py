"""Weight formats as tables: one row per module, from the names of another library to the official dense ones.

A name holds `{i}` for the stage and `{j}` for the block. The stage may be written as a line, `{i+1}` or `{2i+1}`, where
the other library counts differently. A name stands for the module's `weight` and `bias`, or for the parameter itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from swin_dense.errors import WeightsError

_FIELD = re.compile(r"\{(?P<scale>\d*)(?P<index>[ij])(?P<offset>\+\d+)?\}")


class Name:
    """A name with stage and block fields, such as `features.{2i+1}.{j}.norm1`, that is matched and filled."""

    def __init__(self, template: str) -> None:
        """Compiles the template."""
        self.template = template
        self._lines = {m["index"]: (int(m["scale"] or 1), int(m["offset"] or 0)) for m in _FIELD.finditer(template)}
        pattern = re.sub(r"\\\{\d*([ij])(?:\\\+\d+)?\\\}", r"(?P<\1>0|[1-9]\\d*)", re.escape(template))
        self._pattern = re.compile(rf"{pattern}(?P<leaf>\.weight|\.bias)?")

    def match(self, key: str) -> tuple[dict[str, int], str] | None:
        """Splits a key into the values of its fields and its leaf (`.weight`, `.bias` or nothing); None if another."""
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
    """A change of values that goes with a change of name.

    Attributes:
        reason: What it does, for the report.
        to_official: From the other library's values to the official ones.
        from_official: The exact inverse.
    """

    reason: str
    to_official: Callable[[Tensor], Tensor]
    from_official: Callable[[Tensor], Tensor]


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        theirs: Name in the other library; several names are parts of one tensor, in order along its first dimension.
        official: The official name.
        rearrangement: How the values change, if they do.
    """

    theirs: str | tuple[str, ...]
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
    """A tensor under its official name.

    Attributes:
        tensor: The values in official order.
        keys: The checkpoint's keys that it was made of.
        change: What was done to the values; empty if nothing.
    """

    tensor: Tensor
    keys: tuple[str, ...]
    change: str = ""


class Format:
    """The table of one library.

    Attributes:
        name: The public name, as in `load_weights(..., format=name)`.
        rows: The table. Where several rows give one official name, `from_official` writes the first.
        optional_prefix: A prefix that some classes of that library put before some of the names.
    """

    def __init__(self, name: str, rows: Iterable[Row], optional_prefix: str = "") -> None:
        """Compiles the names of every row."""
        self.name = name
        self.rows = tuple(rows)
        self.optional_prefix = optional_prefix
        self._names = [
            (Name(theirs), Name(row.official), row, part) for row in self.rows for part, theirs in enumerate(row.parts)
        ]

    def read(self, key: str) -> Reading | None:
        """Looks a key up in the table; None if the table does not have it."""
        key = key.removeprefix(self.optional_prefix)
        for theirs, official, row, part in self._names:
            if (match := theirs.match(key)) is not None:
                return Reading(official.fill(*match), row, part)
        return None

    def to_official(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Converted], tuple[str, ...]]:
        """Renames and rearranges a state dict of this format.

        Args:
            tensors: The state dict of a backbone, or of a classifier around it, in this format.

        Returns:
            The converted tensors by official name, and the keys that the table does not have.

        Raises:
            WeightsError: Two keys stand for one parameter, a part of a parameter is missing, or a tensor has a shape
                that cannot be rearranged.
        """
        gathered: dict[str, tuple[Row, dict[int, str]]] = {}
        unmatched = []
        for key in tensors:
            reading = self.read(key)
            if reading is None:
                unmatched.append(key)
                continue
            keys = gathered.setdefault(reading.official, (reading.row, {}))[1]
            if reading.part in keys:
                raise WeightsError(f"{keys[reading.part]} and {key} both stand for {reading.official}")
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
            tensor = torch.cat(values) if len(values) > 1 else values[0]
            if row.rearrangement is not None:
                tensor = row.rearrangement.to_official(tensor)
        except (RuntimeError, IndexError) as error:
            shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in zip(ordered, values, strict=True))
            raise WeightsError(f"{official} cannot be made of {shapes}: {error}") from error
        changes = [f"{len(values)} tensors joined"] if len(values) > 1 else []
        if row.rearrangement is not None:
            changes.append(row.rearrangement.reason)
        return Converted(tensor, ordered, ", ".join(changes))

    def from_official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renames and rearranges official tensors into this format: the inverse of `to_official`.

        Args:
            tensors: The state dict of a backbone with official names and no prefix.

        Returns:
            The state dict in this format, bit for bit what `to_official` came from.

        Raises:
            WeightsError: The format has no place for a name.
        """
        rows = [(Name(row.official), row) for row in self.rows]
        result = {}
        for key, tensor in tensors.items():
            found = next(((match, row) for name, row in rows if (match := name.match(key)) is not None), None)
            if found is None:
                raise WeightsError(f"the {self.name} format has no name for {key}")
            match, row = found
            values = tensor if row.rearrangement is None else row.rearrangement.from_official(tensor)
            for theirs, value in zip(row.parts, values.chunk(len(row.parts)), strict=True):
                result[Name(theirs).fill(*match)] = value
        return result
