"""The files of a source: XML, JSON and images, found by name and never outside its folder."""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from swin_dense.coco.parsing import read_json
from swin_dense.errors import DataError
from swin_dense.images.files import NearNames, list_files
from swin_dense.images.finder import SUFFIXES
from swin_dense.images.store import ImageStore, orientation_of, shown_size
from swin_dense.importing.records import Imported, UnusableError
from swin_dense.records import Size

MAX_BYTES = 2**29
"""Largest XML or text file that is read whole."""

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""What splits are called, in our words."""

SAME_FILE = {"the Unicode normal form", "upper and lower case", "the folder"}
"""Differences between names that other systems, or a move, make of one file."""


def folder_of(source: Path) -> Path:
    """The folder of a source that is a folder or an annotation file."""
    return source if source.is_dir() else source.parent


def annotation_files(source: Path, *suffixes: str) -> list[Path]:
    """Files with these suffixes, sorted: the source itself, or all below it."""
    if source.is_file():
        return [source] if source.suffix.lower() in suffixes else []
    return [source / name for name in list_files(source, suffixes)]


def xml_root(path: Path) -> Element:
    """The root element of an XML file without entities of its own, of which a few lines could fill any memory."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnusableError("too-large", f"has more than {MAX_BYTES} bytes", "split it")
        root: Element = defusedxml.ElementTree.parse(str(path)).getroot()
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        fault = f"is no XML that can be read ({error})"
        raise UnusableError("broken-xml", fault, "export it again") from None
    except OSError as error:
        raise UnusableError("unreadable", f"cannot be read ({error.strerror})", "restore it") from None
    return root


def text_of(element: Element, name: str) -> str:
    """Text of the child of this name, without spaces around it; "" where there is none."""
    return (element.findtext(name) or "").strip()


def json_document(path: Path) -> Any:
    """What a JSON file holds."""
    try:
        return read_json(path)
    except DataError as error:
        message = str(error).removeprefix(f"{path}: ")
        raise UnusableError("broken-json", message, "export it again") from None


def text_lines(path: Path) -> list[str]:
    """Lines of a text file that are not blank, without spaces around them."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnusableError("too-large", f"has more than {MAX_BYTES} bytes", "split it")
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UnusableError("broken-text", f"is no text in UTF-8 ({error.reason})", "save it as UTF-8") from None
    except OSError as error:
        raise UnusableError("unreadable", f"cannot be read ({error.strerror})", "restore it") from None
    return [line.strip() for line in lines if line.strip()]


def by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of files by their last part without its suffix."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(Path(name).stem, []).append(name)
    return found


def split_of(name: str) -> str | None:
    """The split that a folder above a file is called by."""
    return next((SPLITS[part] for part in name.lower().split("/")[:-1] if part in SPLITS), None)


def closest(name: str, others: Sequence[str]) -> str | None:
    """Of files with one name, that of the same split whose folders are most like those of `name`; None for a draw."""
    split, folders = split_of(name), name.split("/")[:-1]

    def alike(other: str) -> int:
        theirs = other.split("/")[:-1]
        # Paths of unlike depth: what the deeper one has beyond the other has no counterpart.
        pairs = (*zip(folders, theirs, strict=False),), (*zip(folders[::-1], theirs[::-1], strict=False),)
        return sum(next((i for i, (a, b) in enumerate(one) if a != b), len(one)) for one in pairs)

    near = [one for one in others if split is None or split_of(one) in (None, split)]
    best = max(map(alike, near), default=0)
    chosen = [one for one in near if alike(one) == best]
    return chosen[0] if len(chosen) == 1 else None


class SourceImages:
    """The images below a folder, found as annotation files name them; those in folders of masks may be left out."""

    def __init__(self, root: Path, without: Collection[str] = ()) -> None:
        self.root = root
        self._found: set[str] = set()
        self.names = [name for name in list_files(root, SUFFIXES) if not {*name.split("/")[:-1]} & {*without}]
        self._known = set(self.names)
        self._by_end: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            self._by_end[name.rpartition("/")[2]].append(name)

    def find(self, name: str, folder: Path) -> str:
        """The image, relative to the root, that a file in `folder` means by a name.

        It is found relative to that folder or to the root; else, as for the absolute paths of another computer, the
        longest end of the name that fits counts, of several images the one that lies closest. Nothing outside the root
        is looked at.
        """
        found = self._find(name, folder)
        self._found.add(found)
        return found

    def drop_unused(self, imported: Imported, fix: str) -> None:
        """Notes the images that no annotation file has named."""
        for name in self.names:
            if name not in self._found:
                imported.drop("not-annotated", self.root / name, "no annotation file names this image", fix)

    def _find(self, name: str, folder: Path) -> str:
        plain = name.replace("\\", "/")
        near = folder.relative_to(self.root).as_posix()
        for base in (near, ""):
            candidate = posixpath.normpath(posixpath.join(base, plain))
            if candidate in self._known:
                return candidate
        parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
        same = self._by_end.get(parts[-1], []) if parts else []
        for length in range(len(parts), 0, -1):
            end = "/".join(parts[-length:])
            fitting = [one for one in same if one == end or one.endswith(f"/{end}")]
            if len(fitting) == 1:
                return fitting[0]
            if near_one := closest(f"{near}/{end}", fitting):
                return near_one
            if fitting:
                message = f"{name!r} fits {len(fitting)} images: {fitting[0]}, {fitting[1]}"
                raise UnusableError("ambiguous-image", message, "give each image its own name")
        same_file = SAME_FILE | ({"the suffix"} if Path(plain).suffix.lower() not in SUFFIXES else set())
        meant, differences = "", list[str]()
        for base in (near, ""):
            meant, differences = self._near.find(posixpath.normpath(posixpath.join(base, plain))) or ("", [])
            if meant and {*differences} <= same_file:
                return meant
        message, fix = f"there is no image {name[:200]!r} in {self.root}", "add it to the folder"
        if any(os.path.isfile(place / plain) for place in (folder, self.root)):  # not where a name is too long
            message, fix = f"{name!r} is no image of a format that is read", f"save it as one of {', '.join(SUFFIXES)}"
        elif meant:
            message += f"; {meant!r} is there, and differs in {', '.join(differences)}"
            fix = "give both the same name if they are the same"
        raise UnusableError("missing-image", message, fix)

    @cached_property
    def _near(self) -> NearNames:
        return NearNames(self.names)

    def size(self, name: str) -> Size:
        """Height and width as viewers show the image, turned by its EXIF orientation; the header alone is read."""
        with ImageStore(self.root).open(name) as image:
            return shown_size(image, orientation_of(image))
