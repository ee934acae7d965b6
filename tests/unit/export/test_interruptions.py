"""Interrupted, continued, shared: the store is whole at every moment and the same in the end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from swin_dense.backbones import FeatureSpec
from swin_dense.errors import ConfigError
from swin_dense.export import FeatureStore, export_features
from swin_dense.export.compute import ImageReader

SHARD = {"shard_size": 0.03, "batch_size": 2}


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a store by its name, save for a half written manifest, which may be another process's."""
    files = (path for path in folder.rglob("*") if path.is_file() and path not in folder.glob(".*.parquet"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(model: nn.Module, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store of one uninterrupted process."""
    folder = tmp_path_factory.mktemp("whole") / "f"
    export_features(model, images, folder, **SHARD)
    return content(folder)


class PowerFailureError(Exception):
    """Stands for the end of the process."""


class Power:
    """Fails after some steps to disk: bringing a file or folder there, or renaming; nobody tidies up after that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps_left = 0
        for owner, name in ((Path, "replace"), (os, "fsync")):
            monkeypatch.setattr(owner, name, self._failing(getattr(owner, name)))
        unlink = Path.unlink
        monkeypatch.setattr(Path, "unlink", lambda *args, **options: self.steps_left < 0 or unlink(*args, **options))

    def _failing(self, step: Callable[..., object]) -> Callable[..., object]:
        def failing(*arguments: object) -> object:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise PowerFailureError
            return step(*arguments)

        return failing


def test_wherever_it_stops_readers_see_whole_images_and_it_continues(
    model: nn.Module, images: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    power, folder = Power(monkeypatch), tmp_path / "f"
    read, stored = set[int](), set[int]()
    reader = ImageReader.__getitem__
    monkeypatch.setattr(ImageReader, "__getitem__", lambda self, number: read.add(number) or reader(self, number))
    for attempt in range(100):
        power.steps_left = attempt % 8  # a shard and its rows are brought to disk in six steps
        read.clear()
        try:
            assert export_features(model, images, folder, **SHARD).is_complete
            break
        except PowerFailureError:
            assert not read & stored  # no image is done twice
        if (folder / "export.json").is_file():
            store = FeatureStore(folder)
            assert all(item["stage1"].isfinite().all() for item in store)
            now = {store.record(index, "stage1").image for index in range(len(store))}
            assert stored <= now
            stored = now
    assert attempt > 10
    assert content(folder) == whole


def test_a_finished_export_computes_nothing_again(
    model: nn.Module, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_features(model, images, tmp_path / "f")
    monkeypatch.setattr(ImageReader, "__getitem__", lambda self, number: pytest.fail("read again"))
    assert len(export_features(model, images, tmp_path / "f")) == 10


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_processes_write_the_store_of_one(
    model: nn.Module, tmp_path: Path, images: Path, world_size: int
) -> None:
    """More images than one block, so that every process has something to do."""
    listed = tmp_path / "all.txt"
    for copy in range(3):
        (tmp_path / f"copy{copy}").symlink_to(images)
    listed.write_text("".join(f"copy{copy}/{number}.png\n" for copy in range(3) for number in range(10)))
    export_features(model, listed, tmp_path / "one", pool=True, **SHARD)
    for rank in reversed(range(world_size)):
        store = export_features(
            model, listed, tmp_path / "shared", pool=True, rank=rank, world_size=world_size, **SHARD
        )
        assert store.is_complete == (rank == 0) and 0 < len(store) <= 30
    assert content(tmp_path / "shared") == content(tmp_path / "one")


class Slow(nn.Module):
    """Its map is the image."""

    feature_specs, size_divisor, pyramid = (FeatureSpec("stage1", 3, 1),), 1, ()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        time.sleep(0.05)
        return (images.float(),)


def export_slowly(images: Path, folder: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    export_features(Slow(), images, folder, batch_size=1, shard_size=0.02)


def test_a_killed_process_is_continued_by_another(images: Path, tmp_path: Path) -> None:
    """Two real processes under torchrun's variables, one killed in the middle; then one process alone."""
    folder, fork = tmp_path / "f", multiprocessing.get_context("fork")
    environments = [{"RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
    both = [fork.Process(target=export_slowly, args=(images, folder, one)) for one in environments]
    for process in both:
        process.start()
    deadline = time.monotonic() + 60
    while not list((folder / "parts").glob("00000002-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    both[0].kill()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [-signal.SIGKILL, 0]
    partial = FeatureStore(folder)
    assert not partial.is_complete and {"8.png", "9.png"} < {Path(path).name for path in partial.paths}
    done = {path.name: path.stat().st_mtime_ns for path in (folder / "shards").glob("[0-9]*")}
    export_slowly(images, folder, {})
    store = FeatureStore(folder)
    assert store.is_complete and len(store) == 10
    assert done.items() <= {path.name: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}.items()
    for item in store:
        assert item["stage1"].equal(torch.from_numpy(np.array(Image.open(item["path"]))).permute(2, 0, 1).float())


def test_other_settings_are_refused_and_named(model: nn.Module, images: Path, tmp_path: Path) -> None:
    export_features(model, images, tmp_path / "f")
    with pytest.raises(ConfigError, match='dtype was "float32", is "float16"; short_side was null, is 30'):
        export_features(model, images, tmp_path / "f", dtype="float16", short_side=30)
    with pytest.raises(ConfigError, match="images was 10, is 1; paths_sha256"):
        export_features(model, images / "1.png", tmp_path / "f")
    changed = nn.Module.__new__(type(model))
    changed.__dict__ = {**model.__dict__, "_buffers": {**model._buffers, "mean": torch.zeros(3, 1, 1)}}
    with pytest.raises(ConfigError, match="weights was"):
        export_features(changed, images, tmp_path / "f")


def test_a_folder_of_something_else_is_left_alone(model: nn.Module, images: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is no export of features"):
        export_features(model, images, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
