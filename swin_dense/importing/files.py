"""The files of a source: XML, JSON and images, found by name and never outside its folder."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from swin_dense.coco.parsing import read_json
from swin_dense.errors import DataError
from swin_dense.images.files import list_files
from swin_dense.images.finder import SUFFIXES
from swin_dense.images.store import ImageError, ImageStore, orientation_of, shown_size
from swin_dense.importing.records import UnusableError
from swin_dense.records import Size

MAX_BYTES = 2**29
"""Largest XML or text file that is read whole."""


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


class SourceImages:
    """The images below a folder, found as annotation files name them; those in folders of masks may be left out."""

    def __init__(self, root: Path, without: Collection[str] = ()) -> None:
        self.root = root
        self.names = [name for name in list_files(root, SUFFIXES) if not {*name.split("/")[:-1]} & {*without}]
        self._known = set(self.names)
        self._by_end: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            self._by_end[name.rpartition("/")[2]].append(name)

    def find(self, name: str, folder: Path) -> str:
        """The image, relative to the root, that a file in `folder` means by a name.

        It is found relative to that folder or to the root; else, as for the absolute paths of another computer, the
        longest end of the name that fits counts. Nothing outside the root is looked at.
        """
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
            if fitting:
                message = f"{name!r} fits {len(fitting)} images: {fitting[0]}, {fitting[1]}"
                raise UnusableError("ambiguous-image", message, "give each image its own name")
        raise UnusableError("missing-image", f"there is no image {name!r} in {self.root}", "add it to the folder")

    def size(self, name: str) -> Size:
        """Height and width as viewers show the image, turned by its EXIF orientation; the header alone is read."""
        store = ImageStore(self.root)
        try:
            with store.open(name) as image:
                return shown_size(image, orientation_of(image))
        except ImageError as error:
            raise UnusableError(error.kind, error.fault, error.fix) from None
