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
        total = f"{taken} of {taken + len(self.missing)} tensors of the model"
        return _table(
            f"{total} from {self.source} (format: {self.format})",
            _line("loaded", len(self.loaded), "as they are"),
            converted=self.converted,
            interpolated=self.interpolated,
            skipped=self.skipped,
            missing=self.missing,
        )

    __str__ = summary


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
        return _table(
            f"{self.written} tensors from {self.source} ({self.format} -> {self.to})",
            _line("kept", len(self.kept), "values as they are"),
            converted=self.converted,
            added=self.added,
            skipped=self.skipped,
        )

    __str__ = summary


def _table(*lines: str, **notes: tuple[Note, ...]) -> str:
    """The lines, then one line per title and reason with the first names."""
    names_of: dict[tuple[str, str], list[str]] = {}
    for title, entries in notes.items():
        for name, reason in entries:
            names_of.setdefault((title, reason), []).append(name)
    rest = [
        _line(title, len(names), f"{reason}: {', '.join(names[:2])}{', ...' * (len(names) > 2)}")
        for (title, reason), names in names_of.items()
    ]
    return "\n".join([*lines, *rest])


def _line(title: str, count: int, text: str) -> str:
    return f"  {title:<12} {count:>5}  {text}"
