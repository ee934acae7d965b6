"""A file is written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from swin_dense.files import atomic_write


def test_the_file_and_its_folder_appear_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.csv"
    with atomic_write(path) as unfinished:
        unfinished.write_text("1,2")
        assert not path.exists()
        assert (unfinished.parent, unfinished.suffix) == (path.parent, ".csv")
    assert [file.name for file in path.parent.iterdir()] == ["metrics.csv"]
    assert path.read_text() == "1,2"


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_write(path) as unfinished:
        unfinished.write_text("half")
        raise OSError("disk full")
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]
    assert path.read_text() == "old"


def test_two_writers_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
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


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask_whatever_the_writer_set(tmp_path: Path, umask: int) -> None:
    """safetensors, for one, creates its files for their owner alone."""
    before = os.umask(umask)
    try:
        for name, write in (("plain", Path.write_text), ("private", _write_private)):
            with atomic_write(tmp_path / name) as unfinished:
                write(unfinished, "whole")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "private")] == [0o666 & ~umask] * 2


def _write_private(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def test_file_and_folder_are_synced_before_and_after_the_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power failure after the block finds the new file whole, or the old one."""
    path, synced = tmp_path / "metrics.csv", []

    def fsync(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_write(path) as unfinished:
        unfinished.write_text("1,2")
    assert synced == [(False, False), (True, True)]


def test_a_block_that_writes_nothing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(path):
        pass
    assert path.read_text() == "old"
