"""Images in tar files that are not unpacked, one tar file for each class, as ImageNet is distributed."""

from __future__ import annotations

import io
import tarfile
from bisect import bisect_left
from collections.abc import Collection, Iterable
from pathlib import Path

import torch

from swin_dense.errors import DataError
from swin_dense.images.store import MAX_BYTES, ImageError, ImageStore
from swin_dense.records import Ragged


class TarImages(ImageStore):
    """A folder of uncompressed tar files; an image is named by the tar file without its suffix, and its own name.

    Opening it reads the directory of every tar file, whose entries are spread over the file.
    """

    def __init__(self, root: Path) -> None:
        """Lists the members of all tar files of a folder."""
        super().__init__(root)
        self.tars = sorted(path for path in self.root.iterdir() if path.suffix == ".tar" and path.name[0] != ".")
        entries = sorted(
            (f"{path.stem}/{member.name}".encode("utf-8", "surrogateescape"), number, member.offset_data, member.size)
            for number, path in enumerate(self.tars)
            for member in _members(path)
        )
        self._names = Ragged.from_bytes(entry[0] for entry in entries)
        self._places = torch.tensor([entry[1:] for entry in entries], dtype=torch.int64).view(-1, 3)

    def names(self, suffixes: Collection[str] | None = None) -> list[str]:
        """Names of all images, sorted."""
        names = (name.decode("utf-8", "surrogateescape") for name in self._names.byte_strings())
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
        place = bisect_left(range(len(self._names)), file_name.encode("utf-8", "surrogateescape"), key=self._bytes)
        found = place < len(self._names) and self._names.text(place) == file_name
        return place if found else None

    def _bytes(self, place: int) -> bytes:
        return self._names[place].tobytes()


def _members(path: Path) -> list[tarfile.TarInfo]:
    """The files in a tar file, without hidden ones."""
    try:
        with tarfile.open(path, "r:") as tar:
            return [member for member in tar if member.isfile() and not Path(member.name).name.startswith(".")]
    except (tarfile.TarError, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as an uncompressed tar file ({error}); download it again") from error
