"""Where ADE20K, and whatever is stored like it, has its files; names and colours of its classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from swin_dense.errors import DataError
from swin_dense.images.archive import exists, read_bytes
from swin_dense.label_maps.files import CLASS_LISTS, class_names_of
from swin_dense.label_maps.palettes import Palette, read_palette

FOLDER = "ADEChallengeData2016"
"""The folder that the official zip file holds, and its name."""

PALETTE = "color150.mat"
"""The official colours, which the developers give out beside the data."""

MAX_BYTES = 2**24
"""Largest class list that is read from a zip file; that of ADE20K has 5000 bytes."""


@dataclass(frozen=True)
class ADE20KLayout:
    """Where the official layout has what; each may lie inside a zip file.

    Attributes:
        train_images: `images/training`.
        train_labels: `annotations/training`.
        val_images: `images/validation`.
        val_labels: `annotations/validation`.
        classes: `objectInfo150.txt`, or the same as .csv, unless another one was named.
    """

    train_images: Path
    train_labels: Path
    val_images: Path
    val_labels: Path
    classes: Path


def official_layout(root: Path, classes: Path | None = None) -> ADE20KLayout:
    """Finds the official layout, for instance for `ADE20KDataModule(**vars(official_layout(root)), ...)`.

    Args:
        root: The folder `ADEChallengeData2016`, a folder with that folder or its zip file in it, or the zip file.
        classes: Another class list; None takes the one of the layout.

    Returns:
        The paths of both splits, one of which may be absent.

    Raises:
        DataError: There is no such layout, or a zip file is unreadable.
    """
    root = Path(root)
    bases = (root, root / FOLDER, root / f"{FOLDER}.zip")
    base = next((base for base in bases if exists(base / "annotations")), None)
    if base is None:
        raise DataError(
            f"{root}: not the layout of {FOLDER}, which has images/{{training,validation}} and "
            f"annotations/{{training,validation}}; name its folder or its zip file"
        )
    images, labels = base / "images", base / "annotations"
    return ADE20KLayout(
        train_images=images / "training",
        train_labels=labels / "training",
        val_images=images / "validation",
        val_labels=labels / "validation",
        classes=classes or find_class_list(labels / "validation"),
    )


def find_class_list(labels: Path) -> Path:
    """The class list of the official layout.

    Args:
        labels: The label maps of one split, `annotations/validation`.

    Returns:
        `objectInfo150.txt` or `objectInfo150.csv` beside the folder `annotations`.

    Raises:
        DataError: There is neither.
    """
    paths = [labels.parent.parent / name for name in CLASS_LISTS]
    found = next(filter(exists, paths), None)
    if found is None:
        raise _no_class_list(paths[0])
    return found


def _no_class_list(path: Path) -> DataError:
    return DataError(f"{path}: no such class list; put it there, or name a file with one class name per line")


def read_classes(path: Path) -> tuple[tuple[str, ...], Palette | None]:
    """Reads names and colours of the classes.

    Args:
        path: Class list, also inside a zip file (see `label_maps.read_class_names`).

    Returns:
        The name of every class 0..K-1, and (K, 3) RGB of the file `color150.mat` beside the list; None
        where there is no such file.

    Raises:
        DataError: A file is missing or no such file, or the two have another number of classes.
    """
    path = Path(path)
    if not exists(path):
        raise _no_class_list(path)
    names = class_names_of(read_bytes(path, MAX_BYTES), path)
    colours = path.with_name(PALETTE)
    return names, read_palette(colours, len(names)) if exists(colours) else None
