"""Files in folders and zip files by name: listing them, judging names, finding the one that was meant, reading.

A zip file is read without being unpacked, and may be named in a path as if it were a folder.
"""

from __future__ import annotations

import html
import os
import re
import unicodedata
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, reduce
from pathlib import Path
from urllib.parse import unquote

from swin_dense.errors import DataError


def escapes(file_name: str) -> bool:
    """Whether a file name leads, or on some system could lead, out of the folder it belongs to.

    True for an absolute path, a drive, a `..` in it, an empty name, or a NUL character.
    """
    parts = file_name.replace("\\", "/").split("/")
    is_absolute = parts[0] == "" or parts[0][1:2] == ":"
    return is_absolute or ".." in parts or parts[-1] == "" or "\0" in file_name


def visible(names: Iterable[str], suffixes: Collection[str] | None = None) -> list[str]:
    """Those of some names that are not hidden and have one of the suffixes."""
    return [
        name
        for name in names
        if not any(part.startswith(".") for part in name.split("/"))
        and (suffixes is None or Path(name).suffix.lower() in suffixes)
    ]


def list_files(folder: Path, suffixes: Collection[str] | None = None) -> list[str]:
    """Names of the files in a folder and its subfolders, relative to it, sorted; hidden ones are left out.

    Links to files and folders are followed; a folder that contains itself through a link is entered once. `suffixes`
    are in lower case, such as ".png".
    """
    status = folder.stat()
    return sorted(_walk(folder, "", suffixes, {(status.st_dev, status.st_ino)}))


def _walk(folder: Path, prefix: str, suffixes: Collection[str] | None, above: set[tuple[int, int]]) -> Iterator[str]:
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
    for entry in entries:
        name, suffix = prefix + entry.name, Path(entry.name).suffix.lower()
        if entry.is_dir():
            status = entry.stat()
            if (identity := (status.st_dev, status.st_ino)) not in above:
                yield from _walk(folder / entry.name, f"{name}/", suffixes, above | {identity})
        elif suffixes is not None and suffix not in suffixes and not (suffix == "" and entry.is_symlink()):
            continue
        elif entry.is_file():
            if suffixes is None or suffix in suffixes:
                yield name
        elif entry.is_symlink():
            target = os.readlink(entry.path)
            raise DataError(f"{entry.path}: a link to {target}, which cannot be reached; restore it or remove the link")


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of some names in a folder that are no files; every subfolder is listed once, no file is touched."""
    listed: dict[str, set[str]] = {}
    missing = []
    for name in names:
        head, _, tail = name.rpartition("/")
        if head not in listed:
            try:
                listed[head] = {entry.name for entry in os.scandir(folder / head) if entry.is_file()}
            except (OSError, ValueError):
                listed[head] = set()
        if tail not in listed[head] and not (tail in (".", "..") or os.path.isfile(folder / name)):
            missing.append(name)
    return missing


def _decoded_wrongly(name: str) -> str:
    """The name where its UTF-8 was read as another encoding: old zip programs (cp437), Windows, Latin-1."""
    for encoding in ("cp437", "cp1252", "latin-1"):
        try:
            return name.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
    return name


def _unquoted(name: str) -> str:
    """The name without percent-encoding, of UTF-8 or else of Latin-1, however often it was encoded."""
    while (plain := unquote(name)) != name:
        name = unquote(name, encoding="latin-1") if "\ufffd" in plain else plain
    return name


DIFFERENCES: dict[str, Callable[[str], str]] = {
    "backslashes": lambda name: name.replace("\\", "/"),
    "percent-encoding": _unquoted,
    "HTML encoding": html.unescape,
    "the text encoding": _decoded_wrongly,
    "the Unicode normal form": lambda name: unicodedata.normalize("NFKC", name),
    "upper and lower case": str.casefold,
    "spaces": lambda name: "".join(name.split()),
    "leading zeros": lambda name: re.sub(r"(?<!\d)0+(?=\d)", "", name),
    "the folder": lambda name: name.rpartition("/")[2],
    "the suffix": lambda name: re.sub(r"(?<=[^/])\.[^./]*$", "", name),
    "punctuation": lambda name: re.sub(r"[^\w/]|_", "", name),
}
"""Ways in which names of the same file are written differently, each with what removes the difference."""

KEPT_APART = (
    {"the folder", "the suffix", "punctuation"},
    {"the suffix", "punctuation"},
    {"the folder", "punctuation"},
    {"punctuation"},
    {"the folder", "the suffix"},
    set[str](),
)
"""Which differences are not looked beyond, the strictest first."""


class NearNames:
    """Finds the file that a name was meant for among those that are there."""

    def __init__(self, names: Iterable[str]) -> None:
        """Indexes the names; a key that fits several files points to none of them."""
        self._found: list[dict[str, str | None]] = [{} for _ in KEPT_APART]
        for name in names:
            for found, kept in zip(self._found, KEPT_APART, strict=True):
                key = _plain(name, kept)
                found[key] = None if key in found else name

    def find(self, name: str) -> tuple[str, list[str]] | None:
        """The file that is meant, and in what its name differs."""
        for found, kept in zip(self._found, KEPT_APART, strict=True):
            near = found.get(_plain(name, kept))
            if near is not None:
                return near, _needed(name, near, kept)
        return None


def _needed(name: str, near: str, kept: Collection[str]) -> list[str]:
    """The fewest differences between two names; several may cover for one another, as for a space of another kind."""
    apart, needed = set(kept), []
    for one in reversed(DIFFERENCES):
        if one not in kept:
            if _plain(name, apart | {one}) == _plain(near, apart | {one}):
                apart.add(one)
            else:
                needed.append(one)
    return needed[::-1]


def _plain(name: str, kept: Collection[str]) -> str:
    """A name without all differences but those to be kept."""
    return reduce(lambda text, one: text if one in kept else DIFFERENCES[one](text), DIFFERENCES, name)


PIECE = 4096
"""Bytes that are unpacked at a time where the decompressor does not bound what comes out (bzip2, lzma)."""


@lru_cache(maxsize=8)
def _opened(path: Path, stamp: tuple[int, int], process: int) -> zipfile.ZipFile:
    """An open zip file. One for each process: forked processes would share the position in it.

    Its directory takes 600 bytes a member: 70 MB in each process that reads COCO's 118,000 images.
    """
    return zipfile.ZipFile(path)


@dataclass(frozen=True)
class Archive:
    """A zip file whose members can be read in any thread of any process."""

    path: Path

    def _file(self) -> zipfile.ZipFile:
        try:
            status = self.path.stat()
            return _opened(self.path, (status.st_mtime_ns, status.st_size), os.getpid())
        except Exception as error:  # zipfile raises nearly anything on damaged files
            raise DataError(
                f"{self.path}: cannot be read as a zip file ({error}); is the download complete?"
            ) from error

    def __contains__(self, name: str) -> bool:
        """Whether there is a member of this name, and not a folder."""
        try:
            return not self._file().getinfo(name).is_dir()
        except KeyError:
            return False

    def names(self) -> list[str]:
        """Names of all members, sorted, without folders and what macOS adds (`__MACOSX/`)."""
        names = (info.filename for info in self._file().infolist() if not info.is_dir())
        return sorted({name for name in names if not name.startswith("__MACOSX/")})

    def sizes(self) -> dict[str, int]:
        """Bytes of every member, unpacked."""
        return {info.filename: info.file_size for info in self._file().infolist()}

    def names_below(self, folder: str) -> list[str]:
        """Names of the members below a folder, relative to it; "" is the whole file."""
        prefix = f"{folder}/" if folder else ""
        return [name.removeprefix(prefix) for name in self.names() if name.startswith(prefix)]

    def top_folder(self) -> str | None:
        """The one folder that all members lie in, such as `train2017`."""
        tops = {name.partition("/")[0] if "/" in name else "" for name in self.names()}
        return tops.pop() or None if len(tops) == 1 else None

    def has(self, name: str) -> bool:
        """Whether there is a member or a folder of this name."""
        return name in self or any(one.startswith(f"{name}/") for one in self.names())

    def read(self, name: str, max_bytes: int) -> bytes:
        """Unpacks one member; a damaged or encrypted one, or one that claims more than `max_bytes`, is an error."""
        file, path = self._file(), self.path / name
        try:
            info = file.getinfo(name)
            if info.file_size > max_bytes:
                raise DataError(
                    f"{path}: claims {info.file_size} bytes, more than the {max_bytes} allowed; pack smaller files"
                )
            bounded = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            with file.open(info) as member:
                step = info.file_size if bounded else PIECE
                content = b"".join(iter(lambda: member.read(step), b"")) if step else member.read()
        except DataError:
            raise
        except KeyError as error:
            raise DataError(f"{path}: no such member in the zip file") from error
        except NotImplementedError as error:  # a way of packing that Python does not know
            raise DataError(f"{path}: {error}; pack it with store or deflate") from error
        except RuntimeError as error:
            raise DataError(f"{path}: encrypted; pack it without a password") from error
        except Exception as error:  # as above
            fault = f"damaged in the zip file, or the zip file is incomplete ({error})"
            raise DataError(f"{path}: {fault}; download it again") from error
        if len(content) != info.file_size:
            raise DataError(f"{path}: damaged in the zip file (shorter than it claims); download it again")
        return content


def locate(path: Path) -> tuple[Archive, str] | None:
    """The zip file in a path that treats it as a folder, such as `ade.zip/images/training`, and what it names in it.

    What it names is "" for the zip file itself. The one folder that everything lies in may be left out. None where no
    zip file is in the path, which need not exist.
    """
    for parent in (path, *path.parents):
        if parent.suffix.lower() == ".zip" and parent.is_file():
            archive = Archive(parent)
            inside = "" if parent == path else path.relative_to(parent).as_posix()
            below_top = f"{archive.top_folder()}/{inside}"
            return archive, below_top if inside and not archive.has(inside) and archive.has(below_top) else inside
    return None


def exists(path: Path) -> bool:
    """Whether there is a file or a folder, on disk or inside a zip file that the path treats as a folder."""
    place = locate(path)
    return path.exists() if place is None or not place[1] else place[0].has(place[1])


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Content of a file, or of a member of a zip file that `path` treats as a folder, of at most `max_bytes`."""
    place = locate(path)
    if place is not None and place[1]:
        return place[0].read(place[1], max_bytes)
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from error
