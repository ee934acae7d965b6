"""Names of files: listing them, judging them, and finding the one that was meant."""

from __future__ import annotations

import html
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import reduce
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
        if tail not in listed[head] and not (tail in (".", "..") or (folder / name).is_file()):
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


DIFFERENCES: dict[str, Callable[[str], str]] = {
    "backslashes": lambda name: name.replace("\\", "/"),
    "percent-encoding": unquote,
    "HTML encoding": html.unescape,
    "the text encoding": _decoded_wrongly,
    "the Unicode normal form": lambda name: unicodedata.normalize("NFKC", name),
    "upper and lower case": str.casefold,
    "spaces": lambda name: "".join(name.split()),
    "leading zeros": lambda name: re.sub(r"(?<!\d)0+(?=\d)", "", name),
    "the folder": lambda name: name.rpartition("/")[2],
    "the suffix": lambda name: re.sub(r"(?<=[^/])\.[^./]*$", "", name),
}
"""Ways in which names of the same file are written differently, each with what removes the difference."""

KEPT_APART = ({"the folder", "the suffix"}, {"the suffix"}, {"the folder"}, set[str]())
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
                needed = (one for one in DIFFERENCES if _plain(name, kept | {one}) != _plain(near, kept | {one}))
                return near, [one for one in needed if one not in kept]
        return None


def _plain(name: str, kept: Collection[str]) -> str:
    """A name without all differences but those to be kept."""
    return reduce(lambda text, one: text if one in kept else DIFFERENCES[one](text), DIFFERENCES, name)
