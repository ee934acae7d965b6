"""Reads what an export has stored, and copies it into other formats."""

from __future__ import annotations

import csv
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from swin_dense.errors import DataError, nearest
from swin_dense.export.manifest import FeatureRecord, is_complete, read_manifest, read_settings
from swin_dense.files import atomic_write

OPEN_SHARDS = 32
"""Most shards that a store keeps mapped into memory; a mapping costs memory for what is read alone."""

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Names in the manifest, and those of safetensors."""

LISTED = ("image", "path", "sha256", "original_size", "resized_size", "scale", "padding")
"""What `images.csv` says about an image."""


class FeatureStore(Dataset[dict[str, Any]]):
    """The features of many images, as a map-style data set.

    Item i is {"path": ..., name of a feature: tensor, ...} of the i-th image that has features. Tensors are mapped from
    the shards: to get one reads neither the shard nor the tensor, until its values are looked at. A store may be used
    in forked and in spawned worker processes.

    Attributes:
        folder: Where it lies.
        names: The features that its items have.
        paths: Of the images, in the order of the items.
        items: What its items are of, "images" or "clips".
        failures: Why an image has no features, by path.
        is_complete: Whether every image of the export is done. Until then the store is what was done when it was
            opened.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from PIL import Image
        >>> from swin_dense.backbones import create_backbone
        >>> from swin_dense.export import FeatureStore, export_features
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (70, 50), "teal").save(folder / "teal.png")
        >>> backbone = create_backbone("swin_nano")  # with random weights
        >>> store = export_features(backbone, folder / "teal.png", folder / "features", pool=True)
        >>> store = FeatureStore(folder / "features", names=("stage2", "stage4.pool"))
        >>> len(store), store.names
        (1, ('stage2', 'stage4.pool'))
        >>> str(store).endswith("1 images, stage2, stage4.pool)")
        True
        >>> store[0]["stage2"].shape  # ceil(50 / 8) x ceil(70 / 8) cells
        torch.Size([64, 7, 9])
        >>> store.read(0, "stage2", np.s_[:, 0, :3]).shape  # reads this part alone
        torch.Size([64, 3])
        >>> store.record(0, "stage2").to_feature([25.0, 35.0]).tolist()  # the middle of the image, in cells
        [3.125, 4.375]
    """

    def __init__(self, folder: Path | str, names: Sequence[str] | None = None) -> None:
        """Reads the manifest.

        Args:
            folder: The output of an export.
            names: The features wanted, such as ("stage4.pool",); None takes all.

        Raises:
            DataError: There is no store, its manifest is damaged or of another export, or it has no such feature.
        """
        self.folder = Path(folder)
        self.items = "clips" if "clips" in read_settings(self.folder) else "images"
        self.is_complete = is_complete(self.folder)
        rows = read_manifest(self.folder)
        failed = rows.filter(pc.is_valid(rows["error"]))
        self.failures = dict(zip(failed["path"].to_pylist(), failed["error"].to_pylist(), strict=True))
        rows = rows.filter(pc.is_valid(rows["stage"]))
        stored = tuple(dict.fromkeys(pc.unique(rows["stage"]).to_pylist()))
        if isinstance(names, str):
            names = (names,)
        for name in names or ():
            if name not in stored:
                raise DataError(f'{self.folder}: holds no "{name}"; {nearest(name, stored)}')
        self.names = stored if names is None else tuple(names)
        self._rows: pa.Table = rows.filter(pc.is_in(rows["stage"], pa.array(self.names, pa.string()))).combine_chunks()
        numbers = self._rows["image"].to_numpy()
        self._starts = np.flatnonzero(np.diff(numbers, prepend=-1, append=-2))
        self.paths: list[str] = self._rows["path"].take(pa.array(self._starts[:-1])).to_pylist()
        self._opened: OrderedDict[str, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        """Such as `FeatureStore(features/val: 4 images, stage1, stage2)`."""
        return f"FeatureStore({self.folder}: {len(self)} {self.items}, {', '.join(self.names)})"

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The features of one image by name, and its path."""
        return {"path": self.paths[index], **{name: self._tensor(one) for name, one in self.records(index).items()}}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def records(self, index: int) -> dict[str, FeatureRecord]:
        """What the manifest says about the features of the image `index`, by name; negative indices count from the end.

        Raises:
            IndexError: There is no such image.
        """
        place = range(len(self))[index]
        start, stop = int(self._starts[place]), int(self._starts[place + 1])
        rows = self._rows.slice(start, stop - start).drop_columns("error").to_pylist()
        found = {row["stage"]: FeatureRecord(**{key: _frozen(value) for key, value in row.items()}) for row in rows}
        return {name: found[name] for name in self.names if name in found}

    def record(self, index: int, name: str) -> FeatureRecord:
        """What the manifest says about the feature `name` of the image `index`.

        Raises:
            DataError: The image has no such feature.
        """
        records = self.records(index)
        if name not in records:
            raise DataError(f'{self.folder}: {self.paths[index]} has no "{name}"; {nearest(name, records)}')
        return records[name]

    def read(self, index: int, name: str, region: Any = None) -> Tensor:
        """Reads one feature, or a part of it.

        Args:
            index: Of the image.
            name: Of the feature.
            region: What would stand in square brackets after the tensor, such as `np.s_[:, 10:20, 10:20]`; only this is
                read. None takes the whole.

        Raises:
            DataError: There is no such feature, or its shard is missing, damaged or not what the manifest says.
        """
        record = self.record(index, name)
        return self._tensor(record) if region is None else self._slice(record)[region]

    def to_npy(self, folder: Path | str) -> None:
        """Copies the features to NumPy files, one per image and feature, and lists the images in a CSV file.

        Args:
            folder: Must be absent or empty; afterwards holds NAME/00000000.npy, ..., and images.csv. NumPy has no
                bfloat16; such features become float32, which holds the same values.

        Raises:
            DataError: The folder is not empty.
        """
        folder = _empty(folder)
        images: dict[int, FeatureRecord] = {}
        for record, values in self._arrays():
            images[record.image] = record
            with atomic_write(folder / record.stage / f"{record.image:08d}.npy") as path:
                np.save(path, values)
        with atomic_write(folder / "images.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(LISTED)
            for record in images.values():
                values_of = (getattr(record, name) for name in LISTED)
                writer.writerow([" ".join(map(str, one)) if isinstance(one, tuple) else one for one in values_of])

    def to_zarr(self, folder: Path | str) -> None:
        """Copies the features to a zarr group, one array NAME/00000000 per image and feature.

        Args:
            folder: Must be absent or empty. What the manifest says about a feature is in the attributes of its array.
                bfloat16 becomes float32.

        Raises:
            DataError: The folder is not empty, or zarr is not installed.
        """
        try:
            import zarr
        except ImportError as error:
            raise DataError('zarr is not installed: pip install "swin-dense[export]"') from error
        root: Any = zarr.open_group(str(_empty(folder)), mode="w")
        for record, values in self._arrays():
            key = f"{record.stage}/{record.image:08d}"
            root[key] = values
            facts = asdict(record).items()
            root[key].attrs.update({name: list(one) if isinstance(one, tuple) else one for name, one in facts})

    def _arrays(self) -> Iterator[tuple[FeatureRecord, NDArray[Any]]]:
        for index in range(len(self)):
            for record in self.records(index).values():
                tensor = self._tensor(record)
                yield record, (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the open shards behind: a worker process opens its own."""
        return {**self.__dict__, "_opened": OrderedDict()}

    def _tensor(self, record: FeatureRecord) -> Tensor:
        self._slice(record)
        tensor: Tensor = self._shard(record).get_tensor(record.key)
        return tensor

    def _slice(self, record: FeatureRecord) -> Any:
        """The tensor in the shard, of which parts can be read; it is what the manifest says."""
        path = self.folder / record.shard
        try:
            found = self._shard(record).get_slice(record.key)
        except SafetensorError as error:
            raise DataError(f"{path}: has no {record.key} ({error}); export it again") from error
        shape, dtype = tuple(found.get_shape()), found.get_dtype()
        if shape != record.shape or dtype != DTYPES[record.dtype]:
            raise DataError(
                f"{path}: {record.key} is {dtype} of shape {shape}, but the manifest says {record.dtype} of "
                f"{record.shape}: the files are not of one export; restore them or export again"
            )
        return found

    def _shard(self, record: FeatureRecord) -> Any:
        """The shard of a feature, opened; the one that was not used for the longest time is closed."""
        if record.shard not in self._opened:
            path = self.folder / record.shard
            try:
                self._opened[record.shard] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise DataError(
                    f"{path}: the shard is missing or damaged ({error}); restore it or export again"
                ) from error
            if len(self._opened) > OPEN_SHARDS:
                self._opened.popitem(last=False)
        self._opened.move_to_end(record.shard)
        return self._opened[record.shard]


def _empty(folder: Path | str) -> Path:
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there already; name another folder or remove it")
    return folder


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
