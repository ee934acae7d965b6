"""Images in tar files that are not unpacked: one for each class, as ImageNet has, or shards of WebDataset."""

from __future__ import annotations

import io
import json
import tarfile
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import torch

from swin_dense.errors import DataError
from swin_dense.images.finder import SUFFIXES
from swin_dense.images.store import MAX_BYTES, ImageError, ImageStore
from swin_dense.records import Ragged

MAX_LABEL_BYTES = 2**20
"""Largest label in a shard; some data sets keep captions and addresses beside it."""


class TarImages(ImageStore):
    """Uncompressed tar files of a folder; an image is named by the tar file without its suffix, and its own name.

    In shards of WebDataset, files that share their name up to its first dot are a sample, and the class of `a.jpg` is
    in `a.cls`, as a number or word, or in `a.json` under "label". Opening reads the directory of every tar file, whose
    entries are spread over the file, so that any image is found by its place.
    """

    def __init__(self, tars: Sequence[Path]) -> None:
        """Lists the members of tar files of one folder."""
        super().__init__(tars[0].parent)
        self.tars = tuple(tars)
        places: dict[bytes, tuple[int, int, int]] = {}  # of a name that a tar file has twice, the last
        words: dict[str, str] = {}
        for number, path in enumerate(tars):
            members, labels = _members(path)
            places |= {_encoded(f"{path.stem}/{one.name}"): (number, one.offset_data, one.size) for one in members}
            words |= {f"{path.stem}/{sample}": word for sample, word in labels.items()}
        names = sorted(one for one in places if not words or Path(_decoded(one)).suffix.lower() in SUFFIXES)
        self._names = Ragged.from_bytes(names)
        self._places = torch.tensor([places[name] for name in names], dtype=torch.int64).view(-1, 3)
        self._words = Ragged.from_texts(self._words_of(words)) if words else None

    def _words_of(self, words: dict[str, str]) -> list[str]:
        """The class of each image of shards."""
        samples = [_sample(name) for name in self.names()]
        problems = [f"{sample}: has no .cls, and no .json with a label" for sample in samples if sample not in words]
        problems += [f"{sample}: has a label and no image" for sample in words.keys() - set(samples)]
        several = {sample: count for sample, count in Counter(samples).items() if count > 1}
        problems += [
            f"{sample}: has {several[sample]} images, such as a mask; keep the one to learn" for sample in several
        ]
        if problems:
            what = "are not an image with a label"
            raise DataError(f"{self.root}: {len(problems)} samples of the shards {what}", sorted(problems))
        return [words[sample] for sample in samples]

    def label_rows(self) -> list[tuple[str, str]] | None:
        """Names and classes in shards of WebDataset; None for a tar file for each class."""
        if self._words is None:
            return None
        return [*zip(self.names(), map(_decoded, self._words.byte_strings()), strict=True)]

    def names(self, suffixes: Collection[str] | None = None) -> list[str]:
        """Names of all images, sorted."""
        names = map(_decoded, self._names.byte_strings())
        return [name for name in names if suffixes is None or Path(name).suffix.lower() in suffixes]

    def missing(self, file_names: Iterable[str]) -> list[str]:
        """Those of some names that are no images here."""
        return [name for name in file_names if self._find(name) is None]

    def empty(self, file_names: Iterable[str]) -> list[str]:
        """Those of some names that hold no byte."""
        empty = {self._names.text(place) for place in torch.nonzero(self._places[:, 2] == 0).flatten().tolist()}
        return [name for name in file_names if name in empty]

    def _source(self, file_name: str) -> tuple[Path | io.BytesIO, int]:
        place = self._find(file_name)
        if place is None:
            raise self.missing_image(file_name)
        number, offset, size = self._places[place].tolist()
        path = self.root / file_name
        if size > MAX_BYTES:
            raise ImageError(path, "unreadable-image", f"claims {size} bytes", "restore the tar file")
        try:
            with self.tars[number].open("rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
            raise ImageError(path, "unreadable-image", fault, "restore the tar file") from error
        return io.BytesIO(content), size

    def _find(self, file_name: str) -> int | None:
        place = bisect_left(range(len(self._names)), _encoded(file_name), key=self._bytes)
        found = place < len(self._names) and self._names.text(place) == file_name
        return place if found else None

    def _bytes(self, place: int) -> bytes:
        return self._names[place].tobytes()


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _sample(name: str) -> str:
    """What WebDataset calls the key: the name up to the first dot behind the last slash."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _members(path: Path) -> tuple[list[tarfile.TarInfo], dict[str, str]]:
    """The files in a tar file, without hidden ones; and the labels among them, by sample."""
    labels = {}
    try:
        with tarfile.open(path, "r:") as tar:
            members = [one for one in tar if one.isfile() and not Path(one.name).name.startswith(".")]
            for member in members:
                if member.name.endswith((".cls", ".json")):
                    word = _label(tar, member)
                    if word is not None:
                        labels[_sample(member.name)] = word
    except (tarfile.TarError, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as an uncompressed tar file ({error}); download it again") from error
    return members, labels


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str | None:
    """The class in a .cls or .json; None where the JSON is about other things."""
    file = tar.extractfile(member) if member.size <= MAX_LABEL_BYTES else None
    if file is None:
        raise ValueError(f"{member.name} is no label: it has {member.size} bytes")
    content = file.read().decode("utf-8")
    if member.name.endswith(".cls"):
        return content.strip()
    try:
        document = json.loads(content)
    except RecursionError as error:
        raise ValueError(f"{member.name} is nested too deep") from error
    label = document.get("label") if isinstance(document, dict) else None
    if not isinstance(label, int | str) or isinstance(label, bool):
        return None
    str(label).encode()  # half a character, which JSON can spell, is a ValueError
    return str(label)
