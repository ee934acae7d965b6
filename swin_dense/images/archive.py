"""Members of a zip file by name, without unpacking it; a zip file may be named in a path as if it were a folder."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from swin_dense.errors import DataError

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
        except NotImplementedError as error:
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
