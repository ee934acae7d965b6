"""Reading a store: without reading its shards, in worker processes, and into other formats."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from swin_dense.errors import DataError
from swin_dense.export import FeatureStore, export_features
from swin_dense.export.manifest import SCHEMA, begin, finish, range_name, write_shard


@pytest.fixture(scope="module")
def store(model: nn.Module, images: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("store") / "f"
    return export_features(model, images, folder, pool=True, dtype="bfloat16", shard_size=0.1)


def row(image: int, name: str, values: Tensor, shard: str) -> dict[str, Any]:
    nothing = {"path": "a.png", "sha256": "", "weights": "", "version": "", "dtype": "float32", "padding": [0, 0]}
    sizes = {"original_size": [1, 1], "resized_size": [1, 1], "scale": [1.0, 1.0], "stride": [1, 1]}
    place = {"image": image, "stage": name, "shard": f"shards/{shard}.safetensors", "key": f"{image}.{name}"}
    return {**nothing, **sizes, **place, "shape": list(values.shape)}


@pytest.mark.skipif(sys.platform != "linux", reason="counts the pages in memory as Linux tells them")
def test_a_map_is_read_without_the_rest_of_its_shard(tmp_path: Path) -> None:
    """Of a shard of 64 MiB, a small map and a corner of a large one bring no more into memory than a few pages, which
    may be of 2 MiB each.
    """
    begin(tmp_path / "f", {"format": 1, "images": 1, "weights": ""})
    tensors = {"large": torch.zeros(16, 1024, 1024), "small": torch.arange(10_000.0).view(1, 100, 100)}
    name = range_name(0, 1)
    rows = [row(0, stage, values, name) for stage, values in tensors.items()]
    write_shard(tmp_path / "f", name, {f"0.{stage}": values for stage, values in tensors.items()}, rows)
    finish(tmp_path / "f", 1)
    store = FeatureStore(tmp_path / "f")
    shard = tmp_path / "f/shards" / f"{name}.safetensors"
    assert store.read(0, "small").equal(tensors["small"])
    assert store.read(0, "large", np.s_[3, 5:9, 2:4]).equal(tensors["large"][3, 5:9, 2:4])
    untouched = store[0]["large"]
    assert untouched.shape == (16, 1024, 1024)
    assert shard.stat().st_size > 64 * 2**20 and 0 < kilobytes_in_memory(shard) < 8 * 1024
    untouched.sum()
    assert kilobytes_in_memory(shard) > 60_000


def kilobytes_in_memory(path: Path) -> int:
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counts = line.endswith(str(path))
        elif counts and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


def test_items_are_named_tensors_with_their_path(store: FeatureStore, images: Path) -> None:
    assert store.names == ("stage1", "stage1.pool", "stage2", "stage2.pool", "stage3", "stage3.pool")
    assert len(store) == 10 and store.is_complete and store.failures == {}
    assert store.paths == [str(images / f"{number}.png") for number in range(10)]
    assert store[-1]["path"] == store.paths[-1] and tuple(store[-1]) == ("path", *store.names)
    assert [item["path"] for item in store] == store.paths
    with pytest.raises(IndexError):
        store[10]


def test_only_named_features_are_in_the_items(store: FeatureStore) -> None:
    some = FeatureStore(store.folder, names=("stage3.pool", "stage1"))
    assert tuple(some[2]) == ("path", "stage3.pool", "stage1")
    assert some[2]["stage1"].equal(store[2]["stage1"])
    with pytest.raises(DataError, match='holds no "stage4"; did you mean'):
        FeatureStore(store.folder, names="stage4")
    with pytest.raises(DataError, match='3.png has no "stage2"'):
        some.read(3, "stage2")


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_loader_reads_it_in_worker_processes(store: FeatureStore, start_method: str) -> None:
    vectors = FeatureStore(store.folder, names="stage3.pool")
    first = vectors[0]["stage3.pool"]  # a shard is open when the workers start
    loader = DataLoader(vectors, batch_size=4, num_workers=1, multiprocessing_context=start_method)
    batches = list(loader)
    assert [path for batch in batches for path in batch["path"]] == store.paths
    together = torch.cat([batch["stage3.pool"] for batch in batches])
    assert together[0].equal(first) and together.equal(torch.stack([item["stage3.pool"] for item in store]))


def test_what_is_read_may_be_changed_without_changing_the_store(store: FeatureStore) -> None:
    before = store.read(0, "stage1").clone()
    store.read(0, "stage1").zero_()
    assert pickle.loads(pickle.dumps(store)).read(0, "stage1").equal(before)


def test_numpy_files_hold_the_same_values(store: FeatureStore, tmp_path: Path) -> None:
    store.to_npy(tmp_path / "npy")
    for index, item in enumerate(store):
        for name in store.names:
            values = np.load(tmp_path / "npy" / name / f"{index:08d}.npy")
            assert values.dtype == np.float32 and np.array_equal(values, item[name].float().numpy())
    lines = (tmp_path / "npy/images.csv").read_text().splitlines()
    assert lines[0] == "image,path,sha256,original_size,resized_size,scale,padding"
    assert lines[4].startswith(f"3,{store.paths[3]},") and lines[4].endswith(",33 50,33 50,1.0 1.0,0 0")
    with pytest.raises(DataError, match="is there already"):
        store.to_npy(tmp_path / "npy")


def test_a_zarr_group_holds_the_same_values_and_the_manifest(store: FeatureStore, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    store.to_zarr(tmp_path / "z")
    group = zarr.open_group(str(tmp_path / "z"), mode="r")
    array = group["stage2/00000003"]
    assert np.array_equal(array[:], store.read(3, "stage2").float().numpy())
    assert array.attrs["stride"] == [8, 8] and array.attrs["path"] == store.paths[3]


def test_zarr_is_asked_for_where_it_is_missing(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(DataError, match=r'pip install "swin-dense\[export\]"'):
        store.to_zarr(tmp_path / "z")


def damaged(folder: Path, **columns: Any) -> Path:
    """The manifest with other values in some columns of its first feature."""
    rows = pq.read_table(folder / "manifest.parquet").to_pylist()
    rows[0].update(columns)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "manifest.parquet")
    return folder


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"shard": "../outside.safetensors"}, "a shard is not in the folder of shards"),
        ({"shard": "/etc/passwd"}, "a shard is not in the folder of shards"),
        ({"shard": "shards/../../00000000-00000010.safetensors"}, "a shard is not in the folder of shards"),
        ({"shard": None}, "shard is missing"),
        ({"image": None}, "a row has no image"),
        ({"image": -1}, "an image is not one of the 2"),
        ({"image": 5}, "an image is not one of the 2"),
        ({"image": 1}, "the images are not in order"),
        ({"path": None}, "a row has no image"),
        ({"shape": None}, "shape is missing"),
        ({"shape": [8, None, 14]}, "shape holds a value below 0, or none"),
        ({"shape": [8]}, "shape has another number of axes"),
        ({"stride": [0, 0]}, "stride holds a value below 1"),
        ({"stride": [4]}, "stride has another number of axes"),
        ({"scale": [0.0, 1.0]}, "scale holds a value below"),
        ({"scale": [float("nan"), 1.0]}, "scale holds a value below"),
        ({"scale": [1.0]}, "has another number of axes than scale"),
        ({"original_size": [0, 5]}, "original_size holds a value below 1"),
        ({"dtype": "float64"}, "an unknown dtype"),
        ({"stage": "stage2"}, "a feature of an image is listed twice"),
        ({"stage": "/tmp/x"}, "the name of a feature leads out of a folder"),
        ({"stage": "../x"}, "the name of a feature leads out of a folder"),
        ({"stage": None}, "a row has neither a feature nor an error"),
        ({"error": "broken"}, "a row has neither a feature nor an error, or both"),
        ({"weights": "0" * 64}, "made with other weights"),
    ],
)
def test_a_manifest_that_no_export_has_written_is_refused(
    model: nn.Module, images: Path, tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    export_features(model, [images / "0.png", images / "1.png"], tmp_path / "f")
    with pytest.raises(DataError, match=f"the manifest is damaged .*{message}"):
        FeatureStore(damaged(tmp_path / "f", **columns))


def test_a_path_that_is_no_text_is_refused(model: nn.Module, images: Path, tmp_path: Path) -> None:
    export_features(model, images / "0.png", tmp_path / "f")
    rows = pq.read_table(tmp_path / "f/manifest.parquet")
    paths = pa.array([b"\xff.png"] * len(rows), pa.binary()).view(pa.string())
    rows = rows.set_column(rows.column_names.index("path"), "path", paths)
    pq.write_table(rows, tmp_path / "f/manifest.parquet")
    with pytest.raises(DataError, match="the manifest is damaged .*UTF8"):
        FeatureStore(tmp_path / "f")


@pytest.mark.parametrize("columns", [{"shape": [8, 7, 20]}, {"dtype": "float16"}, {"key": "00000000.stage2"}])
def test_a_tensor_that_is_not_what_the_manifest_says_is_refused(
    model: nn.Module, images: Path, tmp_path: Path, columns: dict[str, Any]
) -> None:
    export_features(model, images / "0.png", tmp_path / "f")
    store = FeatureStore(damaged(tmp_path / "f", **columns))
    for read in (lambda: store[0], lambda: store.read(0, "stage1", np.s_[0]), lambda: store.to_npy(tmp_path / "npy")):
        with pytest.raises(DataError, match="the manifest says .* not of one export"):
            read()


def test_a_region_of_a_tensor_that_is_not_there_is_named(model: nn.Module, images: Path, tmp_path: Path) -> None:
    export_features(model, images / "0.png", tmp_path / "f")
    store = FeatureStore(damaged(tmp_path / "f", key="absent"))
    with pytest.raises(DataError, match="has no absent"):
        store.read(0, "stage1", np.s_[0])


@pytest.mark.parametrize(
    "name", ["00000001-00000009", "00000000-00000001", "1-2", "00000001-0000000x", "00000003-00000002"]
)
def test_a_part_of_another_export_is_refused(model: nn.Module, images: Path, tmp_path: Path, name: str) -> None:
    export_features(model, [images / "0.png", images / "1.png"], tmp_path / "f")
    (tmp_path / "f" / "manifest.parquet").unlink()
    (part,) = (tmp_path / "f" / "parts").iterdir()
    (part.parent / f"{name}.parquet").write_bytes(part.read_bytes())
    for use in (
        lambda: FeatureStore(tmp_path / "f"),
        lambda: export_features(model, [images / "0.png", images / "1.png"], tmp_path / "f"),
    ):
        with pytest.raises(DataError, match=r"parts.*no part of this export of 2 images; remove it"):
            use()


def test_every_file_has_the_permissions_of_a_new_one(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    modes = {path.stat().st_mode for path in store.folder.rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "new").stat().st_mode}


def test_damage_is_named(model: nn.Module, images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no export of features"):
        FeatureStore(tmp_path / "absent")
    store = export_features(model, images / "0.png", tmp_path / "f")
    shard = tmp_path / "f" / store.record(0, "stage1").shard
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(DataError, match=rf"{shard.name}: the shard is missing or damaged"):
        store.read(0, "stage1")
    shard.write_bytes(bytes(1000))
    with pytest.raises(DataError, match=rf"{shard.name}: the shard is missing or damaged"):
        FeatureStore(tmp_path / "f").read(0, "stage1")
    (tmp_path / "f/manifest.parquet").write_bytes(bytes(1000))
    with pytest.raises(DataError, match="the manifest is damaged"):
        FeatureStore(tmp_path / "f")
    (tmp_path / "f/manifest.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="the manifest is damaged"):
        FeatureStore(tmp_path / "f")
    (tmp_path / "f/export.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="another format than 1"):
        FeatureStore(tmp_path / "f")
    for text in ("[" * 100_000, '{"format": 1, "images": "two"}', '{"format": 1, "images": null, "weights": ""}', "\0"):
        (tmp_path / "f/export.json").write_text(text)
        with pytest.raises(DataError, match="export.json"):
            FeatureStore(tmp_path / "f")
