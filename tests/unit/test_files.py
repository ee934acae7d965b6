"""A file is written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from swin_dense.errors import OutputError
from swin_dense.files import atomic_write, is_there
from swin_dense.training.callbacks import WholeFiles
from swin_dense.weights.files import save_checkpoint


def test_what_the_system_does_not_look_up_is_not_called_absent(tmp_path: Path) -> None:
    assert is_there(tmp_path)
    assert not is_there(tmp_path / "gone" / "too") and not is_there(tmp_path / "zero\0byte")
    (tmp_path / "link").symlink_to(tmp_path / "link")
    assert not is_there(tmp_path / "link"), "it leads to itself"
    with pytest.raises(OSError, match="File name too long"):
        is_there(tmp_path / ("a" * 5000))


def test_an_address_is_no_file_on_windows_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "stat", Mock(side_effect=OSError(errno.EINVAL, "The file name syntax is incorrect")))
    assert not is_there(Path("https://example.com/a.jpg"))


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
    with pytest.raises(KeyError), atomic_write(path) as unfinished:
        unfinished.write_text("half")
        raise KeyError
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
    with pytest.raises(OutputError), atomic_write(path):
        pass
    assert path.read_text() == "old"


def _save_picture(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.ckpt": lambda path: WholeFiles().save_checkpoint({"a": torch.zeros(100_000)}, path),
    "a.pth": lambda path: save_checkpoint({"a": torch.zeros(100_000)}, path),
    "a.safetensors": lambda path: save_file({"a": torch.zeros(100_000)}, path),
    "a.parquet": lambda path: pq.write_table(pa.table({"a": np.random.default_rng(0).random(100_000)}), path),
    "a.npy": lambda path: np.save(path, np.zeros(100_000)),
    "a.png": _save_picture,
    "a.json": lambda path: path.write_text("0" * 400_000),
}


@pytest.mark.parametrize("name", WRITERS)
def test_where_the_system_takes_no_more_bytes_its_reason_is_what_the_user_sees(name: str, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the writers meet it in the same system calls."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    path = tmp_path / name
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OutputError) as caught, atomic_write(path) as unfinished:
            WRITERS[name](unfinished)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    reasons = ("File too large", "os error 27", "bytes are free there")
    assert " cannot be written: " in str(caught.value) and any(reason in str(caught.value) for reason in reasons)
    assert path.read_text() == "old" and [one.name for one in tmp_path.iterdir()] == [name]


def test_what_is_said_of_another_file_is_not_said_of_this_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"), atomic_write(tmp_path / "a" / "b"):
        (tmp_path / "absent").read_bytes()


def test_a_folder_that_cannot_be_made_is_an_error_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    path = tmp_path / "pictures" / "1.png"
    with pytest.raises(OutputError, match="1.png cannot be written: Read-only file system"), atomic_write(path):
        pass
