"""Copies of a feature store in formats that other programs read."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from swin_dense.errors import DataError
from swin_dense.files import atomic_write

if TYPE_CHECKING:
    from swin_dense.export.store import FeatureRecord, FeatureStore

LISTED = ("image", "path", "sha256", "original_size", "resized_size", "scale", "padding")
"""What `images.csv` says about an image."""


def to_npy(store: FeatureStore, folder: Path) -> None:
    """Writes NAME/00000000.npy for every image and feature, and images.csv; see `FeatureStore.to_npy`."""
    _check_empty(folder)
    images: dict[int, FeatureRecord] = {}
    for record, values in _arrays(store):
        images[record.image] = record
        with atomic_write(folder / record.stage / f"{record.image:08d}.npy") as unfinished:
            np.save(unfinished, values)
    with atomic_write(folder / "images.csv") as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(LISTED)
        for record in images.values():
            values_of = (getattr(record, name) for name in LISTED)
            writer.writerow([" ".join(map(str, one)) if isinstance(one, tuple) else one for one in values_of])


def to_zarr(store: FeatureStore, folder: Path) -> None:
    """Writes a group with an array NAME/00000000 for every image and feature; see `FeatureStore.to_zarr`."""
    try:
        import zarr
    except ImportError as error:
        raise DataError('zarr is not installed: pip install "swin-dense[export]"') from error
    _check_empty(folder)
    root: Any = zarr.open_group(str(folder), mode="w")
    for record, values in _arrays(store):
        key = f"{record.stage}/{record.image:08d}"
        root[key] = values
        root[key].attrs.update({name: _plain(value) for name, value in asdict(record).items()})


def _arrays(store: FeatureStore) -> Iterator[tuple[FeatureRecord, NDArray[Any]]]:
    for index in range(len(store)):
        for name, record in store.records(index).items():
            tensor = store.read(index, name)
            yield record, (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there already; name another folder or remove it")
