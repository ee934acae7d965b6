"""Pages are one file, whatever the texts hold."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np

from swin_dense.report import charts
from swin_dense.report.page import Section, Table, number, percent, write_page


def test_texts_are_texts_and_numbers_sort_by_their_value(tmp_path: Path) -> None:
    rows = [["<script>alert(1)</script>", number(1234.5)], ["cat", percent(-1.0)]]
    write_page(tmp_path / "page.html", "a < b", ["\ud800"], [Section("One & two", [Table(["class", "objects"], rows)])])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert 'data-value="1234.5">1,234.5<' in page and 'data-value="-inf">–<' in page
    assert 'id="one-two"' in page and 'href="#one-two"' in page


def test_charts_take_the_ink_of_the_page_and_are_the_same_each_time() -> None:
    first, second = (charts.lines("$5", "x", "y", {"a $ and $ b": (np.arange(3), np.arange(3))}) for _ in range(2))
    assert first == second
    drawing = base64.b64decode(first.svg.partition(",")[2]).decode()
    assert "currentColor" in drawing and charts.INK not in drawing and "a $ and $ b" in drawing
