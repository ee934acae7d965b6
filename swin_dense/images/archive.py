"""Reads members of a zip file by name, without unpacking it and without a Python object per member.

Python's own `ZipFile` holds an object per member: half a second and 70 MB in every worker process at COCO's 118,000
images, and a file position that forked processes would share. Here the directory is read once, into flat tensors, and
every read opens the file anew, as reading from a folder does: nothing is left to share.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from swin_dense.errors import DataError
from swin_dense.images.ragged import Ragged

LOCAL_HEADER = struct.Struct("<4s22xHH")
"""A member's own header: signature, ..., length of its name, length of the extra field (APPNOTE.TXT 4.3.7)."""


def locate(path: Path) -> tuple[ZipIndex, str] | None:
    """Finds the zip file in a path that treats it as a folder, such as `ade.zip/images/training`.

    Args:
        path: Any path; it need not exist.

    Returns:
        The zip file, and what the path names in it ("" for the zip file itself), with the one folder that everything
        lies in put before where only that makes it exist; None for a path without a zip file.

    Raises:
        DataError: The zip file is unreadable.
    """
    for parent in (path, *path.parents):
        if parent.suffix.lower() == ".zip" and parent.is_file():
            index = ZipIndex.open(parent)
            inside = "" if parent == path else path.relative_to(parent).as_posix()
            below_top = f"{index.top_folder()}/{inside}"
            return index, below_top if inside and not index.has(inside) and index.has(below_top) else inside
    return None


def exists(path: Path) -> bool:
    """Whether there is a file or a folder, on disk or inside a zip file that the path treats as a folder.

    Args:
        path: Any path.

    Raises:
        DataError: The zip file is unreadable.
    """
    place = locate(path)
    return path.exists() if place is None or not place[1] else place[0].has(place[1])


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Reads a file, or a member of a zip file written as if the zip file were a folder.

    Args:
        path: The file.
        max_bytes: A member of a zip file that claims to be larger is refused before anything is unpacked.

    Returns:
        Its content.

    Raises:
        DataError: It is missing or cannot be read.
    """
    place = locate(path)
    if place is not None and place[1]:
        return place[0].read(place[1], max_bytes)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class ZipIndex:
    """Where the members of a zip file lie.

    Attributes:
        path: The zip file.
        names: Member names, sorted bytes.
        entries: (members, 5) int64: position of the header, stored size, real size, CRC-32, compression method.
    """

    path: Path
    names: Ragged
    entries: Tensor

    @classmethod
    def open(cls, path: Path) -> ZipIndex:
        """Reads the directory of a zip file.

        Args:
            path: The zip file.

        Returns:
            The index; folders, encrypted members and what macOS adds (`__MACOSX/`) are not in it.

        Raises:
            DataError: The file is missing, unreadable, or no zip file.
        """
        try:
            with zipfile.ZipFile(path) as file:
                members = {info.filename.encode("utf-8", "surrogatepass"): info for info in file.infolist()}
        # zipfile raises NotImplementedError for archives of a version or a kind that it cannot read.
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            raise DataError(f"{path}: cannot be read as a zip file ({error}); is the download complete?") from error
        kept = sorted(
            name
            for name, info in members.items()
            if not info.is_dir() and not info.flag_bits & 1 and not name.startswith(b"__MACOSX/")
        )
        entries = torch.tensor(
            [
                (info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type)
                for info in map(members.__getitem__, kept)
            ],
            dtype=torch.int64,
        )
        return cls(path, Ragged.from_bytes(kept), entries.reshape(-1, 5))

    def __contains__(self, name: str) -> bool:
        """Whether there is a member of this name."""
        return self._row(name) is not None

    def _row(self, name: str) -> int | None:
        return self.names.find(name.encode("utf-8", "surrogatepass"))

    def top_folder(self) -> str | None:
        """The one folder that all members lie in, such as `train2017`; None where there is no such folder."""
        rows = (0, len(self.names) - 1) if len(self.names) else ()
        # The names are sorted, so that the first and the last one speak for all between.
        tops = {self.names.text(row).rpartition("/")[0].partition("/")[0] for row in rows}
        return tops.pop() or None if len(tops) == 1 else None

    def has(self, name: str) -> bool:
        """Whether there is a member or a folder of this name."""
        return name in self or any(self.names_below(f"{name}/"))

    def names_below(self, prefix: str) -> Iterator[str]:
        """Members whose full name starts with a prefix, in order, without that prefix.

        Args:
            prefix: A folder with its final slash, or "" for all members.
        """
        start = prefix.encode("utf-8", "surrogatepass")
        for row in range(self.names.first_from(start), len(self.names)):
            name = self.names.text(row)
            if not name.startswith(prefix):
                return
            yield name.removeprefix(prefix)

    def read(self, name: str, max_bytes: int) -> bytes:
        """Reads one member.

        Args:
            name: Its full name in the zip file.
            max_bytes: A member that claims to be larger is refused before anything is unpacked.

        Returns:
            Its content, checked against its checksum.

        Raises:
            DataError: There is no such member, or it is damaged, too large, or compressed in an unusual way.
        """
        row = self._row(name)
        if row is None:
            raise DataError(f"{self.path}/{name}: no such member in the zip file")
        position, stored_size, size, checksum, method = self.entries[row].tolist()
        if max(size, stored_size) > max_bytes:
            raise DataError(f"{self.path}/{name}: claims {size} bytes, more than the {max_bytes} allowed")
        if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{self.path}/{name}: compression method {method}; pack it with store or deflate")
        try:
            with self.path.open("rb") as file:
                file.seek(position)
                signature, name_length, extra_length = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
                file.seek(name_length + extra_length, 1)
                content = file.read(stored_size)
            if method == zipfile.ZIP_DEFLATED:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
        except (OSError, struct.error, zlib.error) as error:
            raise DataError(f"{self.path}/{name}: cannot be read ({error}); is the download complete?") from error
        if signature != b"PK\x03\x04" or len(content) != size or zlib.crc32(content) != checksum:
            raise DataError(f"{self.path}/{name}: damaged in the zip file (wrong checksum or size); download it again")
        return content
