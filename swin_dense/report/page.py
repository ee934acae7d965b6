"""A page of sections in one file: charts and pictures inside it, nothing that a browser would have to fetch."""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from swin_dense.files import atomic_write
from swin_dense.visualize.pictures import Picture

WIDEST = 1000
"""Pixels of a picture in the page: enough to see single objects, and some 100 KB."""


@dataclass(frozen=True)
class Chart:
    """A drawing of `charts`.

    Attributes:
        svg: As a data URI.
        title: What it shows.
        note: How to read it, in a sentence.
        wide: Whether it takes the whole width of the page.
    """

    kind: ClassVar[str] = "chart"
    svg: str
    title: str
    note: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Cell:
    """A number in a table, as it is shown and as it is sorted by."""

    text: str
    value: float


@dataclass(frozen=True)
class Table:
    """Rows that a click on a heading sorts.

    Attributes:
        headings: Of the columns.
        rows: A text or a `Cell` for each column.
        title: What they are; "" for none.
        wide: Whether it takes the whole width of the page.
    """

    kind: ClassVar[str] = "table"
    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    wide: bool = True


@dataclass(frozen=True)
class Shown:
    """A picture and what is said below it."""

    source: str  # a data URI
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side, two in a row, or more where they are to be `small`."""

    kind: ClassVar[str] = "gallery"
    pictures: Sequence[Shown]
    title: str = ""
    small: bool = False


@dataclass(frozen=True)
class Tiles:
    """The few numbers that matter, large: by name, text and what it means."""

    kind: ClassVar[str] = "tiles"
    numbers: Sequence[tuple[str, str, str]]


Block = Chart | Table | Gallery | Tiles


@dataclass(frozen=True)
class Section:
    """A heading with a sentence and what is shown below it."""

    title: str
    blocks: Sequence[Block]
    note: str = ""

    @property
    def anchor(self) -> str:
        """Its name in links, which differs from that of every section of another title."""
        return re.sub(r"\W+", "-", self.title).strip("-").lower()


def number(value: float | None, decimals: int = 1) -> Cell:
    """A number of a table; a dash where there is none (None, NaN, or COCO's -1 turned into one of these)."""
    if value is None or not np.isfinite(value):
        return Cell("–", float("-inf"))
    return Cell(f"{value:,.{decimals}f}", float(value))


def percent(share: float | None, decimals: int = 1) -> Cell:
    """A share of 0..1 in percent; a dash where there is none (None, NaN, or COCO's -1)."""
    return number(None if share is None or share < 0 else 100 * share, decimals)


def shown(picture: Picture, caption: str) -> Shown:
    """A picture for the page, reduced where it is wide."""
    image = Image.fromarray(picture)
    image.thumbnail((WIDEST, 2 * WIDEST), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82, optimize=True)
    return Shown(f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}", caption)


def write_page(output: Path, title: str, facts: Sequence[str], sections: Sequence[Section]) -> None:
    """Writes a page whole or not at all.

    Args:
        output: The file, such as report.html.
        title: Its heading.
        facts: Short texts below the heading, before the time.
        sections: What is on it; titles differ.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    facts = [*facts, time.strftime("%Y-%m-%d %H:%M")]
    text = template.render(title=title, facts=facts, sections=sections)
    with atomic_write(output) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
