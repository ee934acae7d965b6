"""What became of every parameter when weights were loaded or converted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Note(NamedTuple):
    """A parameter or key, and what happened to it or why it was left."""

    name: str
    reason: str


@dataclass(frozen=True)
class LoadReport:
    """The account of one `load_weights`.

    `loaded`, `converted`, `interpolated` and `missing` together are every key of the model, each once.

    Attributes:
        source: The file, with the entry in it that held the weights, or "state dict".
        format: The format's name in `FORMATS`; "same names" for a model without a Swin backbone.
        loaded: The model's keys whose values came as they were.
        converted: Keys whose values were rearranged, joined or cast, and how.
        interpolated: Keys that were resized to another window or image size, and how.
        skipped: The checkpoint's keys that the model does not take, and why.
        missing: The model's keys that keep their initial values, and why.
    """

    source: str
    format: str
    loaded: tuple[str, ...]
    converted: tuple[Note, ...]
    interpolated: tuple[Note, ...]
    skipped: tuple[Note, ...]
    missing: tuple[Note, ...]

    def summary(self) -> str:
        """A short table: a line with the totals, then one line per thing that happened, with the first names."""
        taken = len(self.loaded) + len(self.converted) + len(self.interpolated)
        lines = [
            f"{taken} of {taken + len(self.missing)} tensors of the model from {self.source} (format: {self.format})"
        ]
        lines.append(_line("loaded", len(self.loaded), "as they are"))
        for title in ("converted", "interpolated", "skipped", "missing"):
            lines += _lines(title, getattr(self, title))
        return "\n".join(lines)

    def __str__(self) -> str:
        """The same as `summary()`."""
        return self.summary()


@dataclass(frozen=True)
class ConversionReport:
    """The account of one conversion.

    `kept`, `converted` and `added` together are every key that was written, each once.

    Attributes:
        source: The file, with the entry in it that held the weights, or "state dict".
        format: The format's name in `FORMATS`.
        to: The format that was written.
        kept: Keys whose values came as they were, perhaps under another name.
        converted: Keys whose values were rearranged, joined or split, and how.
        added: Keys that the source lacks and the format wants, and where their values come from.
        skipped: The source's keys that were not written, and why.
    """

    source: str
    format: str
    to: str
    kept: tuple[str, ...]
    converted: tuple[Note, ...]
    added: tuple[Note, ...]
    skipped: tuple[Note, ...]

    @property
    def written(self) -> int:
        """Number of tensors in the new file."""
        return len(self.kept) + len(self.converted) + len(self.added)

    def summary(self) -> str:
        """A short table: a line with the totals, then one line per thing that happened, with the first names."""
        lines = [f"{self.written} tensors from {self.source} ({self.format} -> {self.to})"]
        lines.append(_line("kept", len(self.kept), "values as they are"))
        for title in ("converted", "added", "skipped"):
            lines += _lines(title, getattr(self, title))
        return "\n".join(lines)

    def __str__(self) -> str:
        """The same as `summary()`."""
        return self.summary()


def _line(title: str, count: int, text: str) -> str:
    return f"  {title:<12} {count:>5}  {text}"


def _lines(title: str, notes: tuple[Note, ...]) -> list[str]:
    """One line per reason."""
    return [_line(title, len(names), f"{reason}: {_first(names)}") for reason, names in _by_reason(notes).items()]


def _by_reason(notes: tuple[Note, ...]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for note in notes:
        groups.setdefault(note.reason, []).append(note.name)
    return groups


def _first(names: list[str], shown: int = 2) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
