"""What lies in the folder of an export, and in which order it is written, so that it is whole at every moment.

    features/
      export.json                         what was asked for, written first
      shards/00000000-00000012.safetensors    the features of images 0 to 11
      parts/00000000-00000012.parquet         their rows of the manifest, written once the shard is on disk
      manifest.parquet                    all parts in one file, written once every image is done

A shard counts once its part is there, so the names of the parts alone say what is left to do. Every file is written
under another name, brought to disk, and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import save_file
from torch import Tensor

from swin_dense.errors import ConfigError, DataError
from swin_dense.files import atomic_write

FORMAT = 1
"""Raised when the folder's layout changes."""

SETTINGS = "export.json"
MANIFEST = "manifest.parquet"

SCHEMA = pa.schema(
    [
        pa.field("image", pa.int64()),  # place in the list of images
        pa.field("path", pa.string()),
        pa.field("sha256", pa.string()),  # of the image file
        pa.field("original_size", pa.list_(pa.int64())),  # height, width
        pa.field("resized_size", pa.list_(pa.int64())),
        pa.field("scale", pa.list_(pa.float64())),  # resized / original, for each axis
        pa.field("padding", pa.list_(pa.int64())),  # rows below, columns right
        pa.field("stage", pa.string()),  # name of the feature; null where the image failed
        pa.field("shape", pa.list_(pa.int64())),
        pa.field("stride", pa.list_(pa.int64())),  # for each axis of the grid; empty where there is none
        pa.field("shard", pa.string()),  # relative to the folder
        pa.field("key", pa.string()),  # in the shard
        pa.field("dtype", pa.string()),
        pa.field("weights", pa.string()),  # SHA-256 of the model's parameters
        pa.field("version", pa.string()),  # of swin-dense
        pa.field("error", pa.string()),  # why the image failed; null for a feature
    ]
)
"""One row per feature of an image, or one for an image that failed. The lists have an entry per axis: two for images,
three (time first) for video."""


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes down what is asked for, or makes sure that the same was asked for before.

    Args:
        folder: The export's folder; absent, empty, or an earlier export.
        settings: Everything that the stored features depend on; JSON values.

    Raises:
        ConfigError: The folder holds something else, or an export with other settings.
    """
    if not (folder / SETTINGS).is_file():
        if folder.exists() and (not folder.is_dir() or any(not one.name.startswith(".") for one in folder.iterdir())):
            raise ConfigError(f"{folder} is there and is no export of features; name another folder or remove it")
        with _durable(folder / SETTINGS) as unfinished:
            unfinished.write_text(json.dumps(settings, indent=1))
    # Read back in any case: of several processes that begin together, one has written.
    before, now = read_settings(folder), json.loads(json.dumps(settings))
    changes = [
        f"{name} was {json.dumps(before.get(name))}, is {json.dumps(now.get(name))}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changes:
        raise ConfigError(
            f"{folder} holds features that were exported with other settings: {'; '.join(changes)}. Continue with the "
            "same settings, or name another folder"
        )


def read_settings(folder: Path) -> dict[str, Any]:
    """Reads `export.json`.

    Args:
        folder: The export's folder.

    Returns:
        The settings.

    Raises:
        DataError: The folder is no export, or one of another format.
    """
    try:
        settings: Any = json.loads((folder / SETTINGS).read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: no export of features ({SETTINGS}: {error})") from error
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise DataError(f"{folder}: an export of another format than {FORMAT}; read it with the version that wrote it")
    return settings


def range_name(first: int, stop: int) -> str:
    """Name of the shard and the part that hold images `first` to `stop - 1`."""
    return f"{first:08d}-{stop:08d}"


def done_ranges(folder: Path) -> dict[int, int]:
    """What is already stored.

    Args:
        folder: The export's folder.

    Returns:
        For the first image of each part, the first image after it.
    """
    names = (path.stem.split("-") for path in (folder / "parts").glob("[0-9]*-[0-9]*.parquet"))
    return {int(first): int(stop) for first, stop in names}


def write_shard(folder: Path, name: str, tensors: Mapping[str, Tensor], rows: Sequence[Mapping[str, Any]]) -> None:
    """Stores the features of some images, all of them or none.

    Args:
        folder: The export's folder.
        name: Of `range_name`.
        tensors: By key; there is no shard where there are none.
        rows: Their rows, and those of images that failed.
    """
    if tensors:
        with _durable(folder / "shards" / f"{name}.safetensors") as unfinished:
            save_file(dict(tensors), unfinished)
    with _durable(folder / "parts" / f"{name}.parquet") as unfinished:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), unfinished)


def finish(folder: Path, images: int) -> bool:
    """Joins the parts once every image is done, whichever process comes last; several may do it at once.

    Args:
        folder: The export's folder.
        images: How many there are.

    Returns:
        Whether every image is done.
    """
    ranges = done_ranges(folder)
    if sum(stop - first for first, stop in ranges.items()) < images:
        return False
    if not is_complete(folder):
        with _durable(folder / MANIFEST) as unfinished:
            pq.write_table(_read_parts(folder, sorted(ranges.items())), unfinished)
    # Left over by processes that were killed; a half written manifest may be that of one that is still at work.
    for pattern in ("shards/.*", "parts/.*", f".{'[0-9a-f]' * 32}.json"):
        for leftover in folder.glob(pattern):
            leftover.unlink(missing_ok=True)
    return True


def is_complete(folder: Path) -> bool:
    """Whether every image is done.

    Args:
        folder: The export's folder.
    """
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> pa.Table:
    """Reads the rows of all finished shards, in the order of the images.

    Args:
        folder: The export's folder.

    Returns:
        A table of `SCHEMA`.

    Raises:
        DataError: A file is damaged.
    """
    try:
        if is_complete(folder):
            return pq.read_table(folder / MANIFEST, schema=SCHEMA)
        return _read_parts(folder, sorted(done_ranges(folder).items()))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{folder}: the manifest is damaged ({error}); copy or export it again") from error


def digest(texts: Iterable[str]) -> str:
    """SHA-256 of a list of texts."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _read_parts(folder: Path, ranges: Iterable[tuple[int, int]]) -> pa.Table:
    paths = [folder / "parts" / f"{range_name(*one)}.parquet" for one in ranges]
    tables = [pq.read_table(path, schema=SCHEMA) for path in paths]
    return pa.concat_tables([SCHEMA.empty_table(), *tables]).combine_chunks()


@contextmanager
def _durable(path: Path) -> Iterator[Path]:
    """`atomic_write`, and what was written survives a power failure too."""
    with atomic_write(path) as unfinished:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
    if os.name == "posix":  # the new name lies in the folder, which other systems cannot bring to disk by itself
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
