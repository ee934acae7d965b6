"""A file is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from swin_dense.files import atomic_write


def test_the_file_and_its_folder_appear_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "figures.csv"
    with atomic_write(path) as unfinished:
        unfinished.write_text("1,2")
        assert not path.exists()
        assert (unfinished.parent, unfinished.suffix) == (path.parent, ".csv")
    assert [file.name for file in path.parent.iterdir()] == ["figures.csv"]
    assert path.read_text() == "1,2"


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "figures.csv"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_write(path) as unfinished:
        unfinished.write_text("half")
        raise OSError("disk full")
    assert [file.name for file in tmp_path.iterdir()] == ["figures.csv"]
    assert path.read_text() == "old"


def test_two_writers_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "figures.csv"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write_text("outer")
        second.write_text("inner")
    assert path.read_text() == "outer"


def test_a_name_may_be_as_long_as_the_file_system_lets_it(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".png")
    with atomic_write(path) as unfinished:
        unfinished.write_text("whole")
        assert unfinished.suffix == ".png"
    assert path.read_text() == "whole"
