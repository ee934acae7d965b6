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
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor

from swin_dense.errors import ConfigError, DataError
from swin_dense.files import atomic_write, check_output_folder
from swin_dense.images.files import escapes

FORMAT = 1
"""Raised when the folder's layout changes."""

SETTINGS = "export.json"
MANIFEST = "manifest.parquet"


@dataclass(frozen=True)
class FeatureRecord:
    """One stored feature, and how its cells lie in the image.

    Points are continuous: pixel (i, j) covers [i, i + 1) x [j, j + 1), its centre is (i + 0.5, j + 0.5), and cell (i,
    j) of a map with stride s covers [i s, (i + 1) s) x [j s, (j + 1) s) of the resized image. Coordinates come in the
    order of the axes: (y, x), or (t, y, x) with frames of the video from the first one of the clip.

    Attributes:
        image: Index in the list of images, or of clips, that were exported.
        path: Of the image; of a clip followed by the seconds in which it begins and ends, `dog.mp4#t=2.133,4.267`.
        sha256: Of the image file.
        original_size: Height and width of the image on disk.
        resized_size: Height and width that the model has seen.
        scale: Resized by original size, for each axis.
        padding: Rows below and columns right of the resized image that the model added; maps cover them too.
        stage: Name of the feature.
        shape: Of the tensor: (C, H, W) for a map, (C,) for a pooled vector, (N, C, 7, 7) for N boxes.
        stride: Pixels of the resized image per cell, for each axis of the grid; empty where there is no grid.
        shard: File that holds the tensor, relative to the store.
        key: Of the tensor in the shard.
        dtype: "float32", "float16" or "bfloat16".
        weights: SHA-256 of the model's parameters.
        version: Of swin-dense.
    """

    image: int
    path: str
    sha256: str
    original_size: tuple[int, ...]
    resized_size: tuple[int, ...]
    scale: tuple[float, ...]
    padding: tuple[int, ...]
    stage: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    shard: str
    key: str
    dtype: str
    weights: str
    version: str

    @property
    def inside(self) -> tuple[slice, ...]:
        """The part of the map that sees the image and not the padding alone: `features[record.inside]`."""
        cells = (-(-side // stride) for side, stride in zip(self.resized_size, self._grid(), strict=True))
        return (slice(None), *(slice(0, count) for count in cells))

    def to_feature(self, points: Any) -> Tensor:
        """Where points (..., axes) of the image on disk, in pixels, lie on the map: float64, in cell floor(p)."""
        return _as_points(points, len(self.scale)) * self._cells_per_pixel()

    def to_image(self, points: Any) -> Tensor:
        """Where points (..., axes) of the map lie on the image on disk, in pixels; the inverse of `to_feature`."""
        return _as_points(points, len(self.scale)) / self._cells_per_pixel()

    def centers(self) -> Tensor:
        """(H, W, 2) float64, the centre of every cell on the image on disk, in pixels; one axis more for video.

        Those of the last row and column may lie beyond the image, where it is no multiple of the stride.
        """
        axes = (torch.arange(count, dtype=torch.float64) + 0.5 for count in self.shape[-len(self._grid()) :])
        return self.to_image(torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1))

    def _grid(self) -> tuple[int, ...]:
        if not self.stride:
            raise DataError(f"{self.stage} has no grid of cells: it is no map")
        return self.stride

    def _cells_per_pixel(self) -> Tensor:
        return torch.tensor(self.scale, dtype=torch.float64) / torch.tensor(self._grid(), dtype=torch.float64)


COLUMN_TYPES = {
    int: pa.int64(),
    str: pa.string(),
    tuple[int, ...]: pa.list_(pa.int64()),
    tuple[float, ...]: pa.list_(pa.float64()),
}

SCHEMA = pa.schema(
    [(name, COLUMN_TYPES[kind]) for name, kind in get_type_hints(FeatureRecord).items()] + [("error", pa.string())]
)
"""One row per feature of an image; or one for an image that failed, with the error and without a stage. The lists have
an entry per axis: two for images, three (time first) for video."""

LEAST = {"original_size": 1, "resized_size": 1, "scale": 1e-12, "padding": 0, "shape": 0, "stride": 1}
"""Least value in each list of the manifest."""

SHARD = r"^shards/\d{8,}-\d{8,}\.safetensors$"


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes down what the stored features depend on, or refuses a folder that holds anything but their export."""
    if not (folder / SETTINGS).is_file():
        if folder.exists() and (not folder.is_dir() or any(not one.name.startswith(".") for one in folder.iterdir())):
            raise ConfigError(f"{folder} is there and is no export of features; name another folder or remove it")
        check_output_folder(folder)
        with atomic_write(folder / SETTINGS) as unfinished:
            unfinished.write_text(json.dumps(settings, indent=1), encoding="utf-8")
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
    """Reads `export.json`."""
    try:
        settings: Any = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{folder}: no export of features ({SETTINGS}: {error})") from error
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise DataError(f"{folder}: an export of another format than {FORMAT}; read it with the version that wrote it")
    if type(settings.get("images")) is not int or not isinstance(settings.get("weights"), str):
        raise DataError(f"{folder}: {SETTINGS} is damaged, it lacks the number of images or the hash of the weights")
    return settings


def range_name(first: int, stop: int) -> str:
    """Name of the shard and the part that hold images `first` to `stop - 1`."""
    return f"{first:08d}-{stop:08d}"


def done_ranges(folder: Path) -> dict[int, int]:
    """What is already stored: for the first image of each part, the first image after it."""
    images, end = read_settings(folder)["images"], 0
    found: list[tuple[int, int, Path]] = []
    for path in (folder / "parts").glob("[!.]*.parquet"):
        match = re.fullmatch(r"([0-9]{8,12})-([0-9]{8,12})", path.stem)
        found.append((int(match[1]), int(match[2]), path) if match else (-1, -1, path))
    for first, stop, path in sorted(found):
        if not end <= first < stop <= images:
            raise DataError(f"{path}: no part of this export of {images} images; remove it")
        end = stop
    return {first: stop for first, stop, _ in found}


def write_shard(folder: Path, name: str, tensors: Mapping[str, Tensor], rows: Sequence[Mapping[str, Any]]) -> None:
    """Stores the features of some images, all or none: tensors by key, and rows of all images, failed ones too."""
    if tensors:
        with atomic_write(folder / "shards" / f"{name}.safetensors") as unfinished:
            save_file(dict(tensors), unfinished)
    with atomic_write(folder / "parts" / f"{name}.parquet") as unfinished:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), unfinished)


def finish(folder: Path, images: int) -> bool:
    """Joins the parts once all images are done, whichever process comes last; says whether they are."""
    ranges = done_ranges(folder)
    if sum(stop - first for first, stop in ranges.items()) < images:
        return False
    if not is_complete(folder):
        with atomic_write(folder / MANIFEST) as unfinished:
            pq.write_table(_read_parts(folder, sorted(ranges.items())), unfinished)
    # Left over by processes that were killed; a half written manifest may be that of one that is still at work.
    for pattern in ("shards/.*", "parts/.*", f".{'[0-9a-f]' * 32}.json"):
        for leftover in folder.glob(pattern):
            leftover.unlink(missing_ok=True)
    return True


def is_complete(folder: Path) -> bool:
    """Whether every image is done."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> pa.Table:
    """Reads the rows of all finished shards, in the order of the images: a table of `SCHEMA`."""
    try:
        if is_complete(folder):
            rows = pq.read_table(folder / MANIFEST, schema=SCHEMA).combine_chunks()
        else:
            rows = _read_parts(folder, sorted(done_ranges(folder).items()))
        rows.validate(full=True)  # texts that are no UTF-8, lists that leave their values
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{folder}: the manifest is damaged ({error}); copy or export it again") from error
    settings = read_settings(folder)
    for problem in _problems(rows, settings["images"], settings["weights"]):
        raise DataError(f"{folder}: the manifest is damaged ({problem}); copy or export it again")
    return rows


def _problems(rows: pa.Table, images: int, weights: str) -> Iterator[str]:
    """What no export would have written; readers rely on all of it."""
    numbers = rows["image"]
    if numbers.null_count or rows["path"].null_count:
        yield "a row has no image"
    elif len(rows) and not (pc.min(numbers).as_py() >= 0 and pc.max(numbers).as_py() < images):
        yield f"an image is not one of the {images} that were exported"
    elif pc.any(pc.less(numbers[1:], numbers[:-1])).as_py():
        yield "the images are not in order"
    if pc.any(pc.equal(pc.is_valid(rows["error"]), pc.is_valid(rows["stage"]))).as_py():
        yield "a row has neither a feature nor an error, or both"
    rows = rows.filter(pc.is_valid(rows["stage"])).combine_chunks()
    for name in rows.column_names:
        if name != "error" and rows[name].null_count:
            yield f"{name} is missing"
            return
    axes = pc.list_value_length(rows["scale"])
    for name, least in LEAST.items():
        values, lengths = pc.list_flatten(rows[name]), pc.list_value_length(rows[name])
        if values.null_count or pc.any(pc.invert(pc.greater_equal(values, least))).as_py():
            yield f"{name} holds a value below {least:g}, or none"
        if name in ("stride", "shape"):  # what has no grid has no stride, and any shape
            axes_here = pc.add(axes, int(name == "shape"))
            lengths = pc.if_else(pc.equal(pc.list_value_length(rows["stride"]), 0), axes_here, lengths)
            fits = pc.equal(lengths, axes_here)
        else:
            fits = pc.equal(lengths, axes)
        if not pc.all(fits, min_count=0).as_py():
            yield f"{name} has another number of axes than scale"
    if any(map(escapes, pc.unique(rows["stage"]).to_pylist())):  # copies are written to folders of this name
        yield "the name of a feature leads out of a folder"
    if not pc.all(pc.match_substring_regex(rows["shard"], SHARD), min_count=0).as_py():
        yield "a shard is not in the folder of shards"
    if not pc.all(pc.is_in(rows["dtype"], pa.array(["float32", "float16", "bfloat16"])), min_count=0).as_py():
        yield "an unknown dtype"
    if not pc.all(pc.equal(rows["weights"], weights), min_count=0).as_py():
        yield "a row is of another export: it was made with other weights"
    if len(rows.group_by(["image", "stage"]).aggregate([])) < len(rows):
        yield "a feature of an image is listed twice"


def digest(texts: Iterable[str]) -> str:
    """SHA-256 of a list of texts."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _read_parts(folder: Path, ranges: Iterable[tuple[int, int]]) -> pa.Table:
    paths = [folder / "parts" / f"{range_name(*one)}.parquet" for one in ranges]
    tables = [pq.read_table(path, schema=SCHEMA) for path in paths]
    return pa.concat_tables([SCHEMA.empty_table(), *tables]).combine_chunks()


def _as_points(points: Any, axes: int) -> Tensor:
    values = torch.as_tensor(points, dtype=torch.float64)
    if values.ndim == 0 or values.shape[-1] != axes:
        raise DataError(f"points must have {axes} coordinates each, not shape {tuple(values.shape)}")
    return values
