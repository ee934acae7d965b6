"""Images of which each has one class: by the folder that it lies in, its tar file, a list of labels, or its shard.

root/n01440764/any.JPEG        a folder for each class, on disk or in a zip file
root/n01440764.tar             an uncompressed tar file for each class
root/any.JPEG                  anywhere, with a text file of lines "any.JPEG 65" or "any.JPEG tench"
root/0000.tar                  shards of WebDataset, or .arrow or .parquet of Hugging Face's `datasets`
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from swin_dense.errors import DataError, nearest
from swin_dense.images.files import escapes, exists, read_bytes
from swin_dense.images.finder import SUFFIXES, image_names
from swin_dense.images.store import ImageStore
from swin_dense.images.tars import TarImages
from swin_dense.records import Ragged

MAX_LIST_BYTES = 2**30
"""Largest list that is read; ImageNet-22K has 14 million lines of some 40 bytes."""

SHARDS = (".arrow", ".parquet", ".tar")
"""Suffixes of files that hold many images."""

WNID = re.compile(r"n\d{8}")
"""The name of a class of ImageNet in WordNet, which is also that of its folder."""


class ClassList(NamedTuple):
    """Classes by label 0..K-1: what their folders (or words in a list) are called, and distinct names for people."""

    folders: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class LabelledImages:
    """The images of one split, in flat arrays.

    Attributes:
        store: Reads them.
        names: Of the files, below the store.
        labels: (n,) int64, the class of each.
    """

    store: ImageStore
    names: Ragged
    labels: Tensor

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)


def read_class_list(path: Path) -> ClassList:
    """Classes by label from a text file of one class per line.

    A line is a name, which is also that of the folder; or a folder and a name with a tab between them, or with a space
    where the folder is called like `n01440764`. Of two classes of one name each gets its folder's beside it.
    """
    lines = [line.strip() for line in list_text(path, "class list").splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{path}: names no classes; write one per line")
    rows = [line.split("\t", 1) if "\t" in line else line.split(None, 1) for line in lines]
    if not all(
        len(row) == 2 and ("\t" in line or WNID.fullmatch(row[0])) for row, line in zip(rows, lines, strict=True)
    ):
        rows = [[line, line] for line in lines]
    folders = tuple(row[0].strip() for row in rows)
    counts = Counter(row[1].strip() for row in rows)
    repeated = [folder for folder, count in Counter(folders).items() if count > 1]
    if repeated:
        raise DataError(f"{path}: the class {repeated[0]!r} is in two lines; remove one of them")
    names = (row[1].strip() for row in rows)
    return ClassList(
        folders,
        tuple(f"{name} ({folder})" if counts[name] > 1 else name for folder, name in zip(folders, names, strict=True)),
    )


def official_split(root: Path, split: str) -> Path:
    """Where a split, "train" or "val", lies in a folder: its folder, or its zip file."""
    archive = root / f"{split}.zip"
    return archive if archive.is_file() and not (root / split).is_dir() else root / split


def find_shards(path: Path) -> list[Path]:
    """The tables or tar files of a split: all in its folder, or those beside it, or in `data`, whose names have its.

    `data/train-00000-of-00294.parquet` belongs to `train`, `validation-00000-of-00014.parquet` to `val`.
    """
    names = ("val", "validation") if path.name == "val" else (path.name,)
    found = next((inside for name in names if (inside := _shards(path.parent / name))), [])
    if not found and path.name and not os.path.lexists(path):
        called = re.compile(rf"(?:.*[-_.])?(?:{'|'.join(map(re.escape, names))})(?:[-_.].*)?")
        for folder in (path.parent, path.parent / "data"):
            found = found or [file for file in _shards(folder) if called.fullmatch(file.stem)]
    return [file for file in found if file.suffix == found[0].suffix]


def _shards(folder: Path) -> list[Path]:
    """Those of a folder; `datasets` keeps what it has computed there in `cache-*.arrow`."""
    if not os.path.isdir(folder):
        return []
    shards = (path for path in folder.iterdir() if path.suffix in SHARDS and not path.name.startswith((".", "cache-")))
    return sorted(path for path in shards if path.is_file())


def open_images(path: Path) -> ImageStore:
    """The images of a folder, a zip file, or of a split in tables or tar files."""
    shards = find_shards(path)
    if not shards:
        return ImageStore(path)
    if shards[0].suffix == ".tar":
        tars = TarImages(shards)
        return tars if os.path.isdir(path) or tars.label_rows() is not None else ImageStore(path)
    from swin_dense.images.tables import TableImages  # Arrow takes a while to import

    return TableImages(shards)


def class_folders(store: ImageStore) -> list[str]:
    """Names of the classes of a store: its folders, empty ones too, or its tar files; sorted. Shards have their own."""
    if (rows := store.label_rows()) is not None:
        return [*store.class_names] or _words(store.root, rows)
    if isinstance(store, TarImages):
        return sorted(path.stem for path in store.tars)
    if store.root.is_dir():
        return sorted(path.name for path in store.root.iterdir() if path.is_dir() and path.name[0] != ".")
    return sorted({name.partition("/")[0] for name in store.names() if "/" in name})


def find_classes(stores: Sequence[ImageStore], lists: Sequence[Path | None]) -> ClassList:
    """The classes of the first split that has any: its folders, or the words of its list."""
    for store, listed in zip(stores, lists, strict=True):
        found = class_folders(store) if listed is None else _words(listed, label_rows(listed))
        if found:
            if pairs := alike(found):
                first, second = pairs[0]
                raise DataError(f"{store.root}: {first!r} and {second!r} differ in spaces alone; make them one class")
            return ClassList(tuple(found), tuple(found))
    places = ", ".join(str(store.root) for store in stores)
    raise DataError(f"{places}: no folder, and so no class; put the images of each class into a folder of its own")


def alike(words: Iterable[str]) -> list[tuple[str, str]]:
    """Names of classes that differ in spaces alone, as slips of a hand do."""
    seen: dict[str, str] = {}
    return [(seen[plain], word) for word in words if seen.setdefault(plain := "".join(word.split()), word) != word]


def read_labelled(store: ImageStore, labels: Path | None, classes: ClassList) -> LabelledImages:
    """Lists the images of a split with their labels; nothing is decoded yet.

    Args:
        store: Where the images lie.
        labels: List of "name label" lines; None takes the class of each image from its folder or shard.
        classes: What labels mean.

    Raises:
        DataError: There is no image, or one has no class or a wrong one, or is not there.
    """
    by_word = {word: label for label, word in enumerate(classes.folders)}
    names, found, problems = [], [], []
    rows = store.label_rows() if labels is None else label_rows(labels)
    if rows is None:
        for name in image_names(store):
            folder, slash, _ = name.partition("/")
            if not slash:
                problems.append(f"{name}: lies in no folder of a class; move it into one")
            elif folder not in by_word:
                problems.append(f"{name}: there is no class {folder!r}; {nearest(folder, by_word)}")
            else:
                names.append(name)
                found.append(by_word[folder])
    else:
        by_word |= {word: label for label, word in enumerate(classes.names)}
        for number, (name, word) in enumerate(rows, start=1):
            label = int(word) if re.fullmatch("[0-9]{1,8}", word) and word not in by_word else by_word.get(word, -1)
            if not word:
                problems.append(f"{name[:80]!r}: has no class; write it behind the name")
            elif not 0 <= label < len(classes.names):
                problems.append(f"line {number}: no class {word!r} among the {len(classes.names)}")
            elif escapes(name):
                problems.append(f"line {number}: {name!r} leads out of {store.root}")
            else:
                names.append(name)
                found.append(label)
        if labels is not None:
            problems += [f"{name}: no such image in {store.root}" for name in store.missing(names)]
    place = store.root if labels is None else labels
    if problems:
        raise DataError(f"{place}: {len(problems)} images are not where their class is known", problems)
    if empty := store.empty(names):
        raise DataError(f"{place}: {len(empty)} images are empty files; restore them, or take them out", empty)
    if not names:
        raise DataError(f"{place}: no image ({', '.join(SUFFIXES)})")
    return LabelledImages(store, Ragged.from_texts(names), torch.tensor(found, dtype=torch.int64))


def read_label_list(path: Path) -> dict[str, str]:
    """The labels of a list by file name, numbers or names of classes; see `read_labelled`."""
    rows = label_rows(path)
    if unlabelled := [f"{name[:80]!r}" for name, word in rows if not word]:
        raise DataError(f"{path}: {len(unlabelled)} lines are not a file name and a label", unlabelled)
    return dict(rows)


def _words(place: Path, rows: Sequence[tuple[str, str]]) -> list[str]:
    """The classes of a list, which must be words: numbers do not say how many there are."""
    words = sorted({word for _, word in rows} - {""})
    if any(word.isdigit() for word in words):
        raise DataError(f"{place}: its labels are numbers; name a file with one class name per line as data.classes")
    return words


def label_rows(path: Path, suffixes: Sequence[str] = SUFFIXES) -> list[tuple[str, str]]:
    """Names and labels: in each line the label is what follows the last tab, or the first space behind a suffix.

    A line that is not a name and a label is a name with the label "".
    """
    rows = []
    for line in filter(None, map(str.strip, list_text(path, "list of labels").splitlines())):
        name, tab, word = line.rpartition("\t")
        if not tab:
            name, _, word = line.rpartition(" ") if line.count(" ") == 1 else _split(line, suffixes)
        rows.append((name.strip(), word.strip()) if name and word else (line, ""))
    return rows


def _split(line: str, suffixes: Sequence[str]) -> tuple[str, str, str]:
    """Several spaces: the name ends with the first suffix of an image."""
    found = re.match(rf"(.*?(?:{'|'.join(map(re.escape, suffixes))}))\s+(.*)", line, re.IGNORECASE)
    return (found[1], " ", found[2]) if found else line.rpartition(" ")


def list_text(path: Path, what: str) -> str:
    """What a list, or a file in a zip file, says."""
    if not exists(path) or path.is_dir():
        raise DataError(f"{path}: no such {what}")
    try:
        return read_bytes(path, MAX_LIST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text file ({error})") from error
