"""Writes a file whole or not at all, makes sure, before the work, that results can be written, and hashes files."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from uuid import uuid4

from swin_dense.errors import ConfigError, OutputError, SwinDenseError

PIECE = 2**20
"""Bytes of a file that are hashed at a time."""

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)
"""What the system says where nothing is: `ELOOP` of a link that leads to itself, `EINVAL`, on Windows, of a name that
no file can have, such as an address."""


def is_there(path: Path) -> bool:
    """Whether there is a file or a folder; an `OSError` where the system does not say, as in a folder that is locked.

    `Path.exists` calls those absent from Python 3.14 on.
    """
    try:
        path.stat()
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return False
    except ValueError:  # of a zero byte in the name
        return False
    return True


@contextmanager
def home_not_needed() -> Iterator[None]:
    """Lets libraries be imported where the user has no home, as in a container that runs as a number without a name.

    yapf, which mmengine imports, stops there: it looks up where it may keep a cache. A place that no file can have is
    as good as none, and no other user's.
    """
    before = os.environ.get("XDG_CACHE_HOME")
    if os.path.isabs(before or "") or os.path.isabs(os.environ.get("HOME", os.path.expanduser("~"))):
        yield
        return
    os.environ["XDG_CACHE_HOME"] = os.devnull
    try:
        yield
    finally:
        del os.environ["XDG_CACHE_HOME"]
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


@contextmanager
def written(path: Path, kept: str = "") -> Iterator[None]:
    """Turns what the system says to the block that writes a file into an error that names the file.

    The first cause is what it says: the writers of torch and safetensors raise their own errors over it. `kept` is what
    to add about the state of the file.
    """
    try:
        yield
    except SwinDenseError:
        raise
    except Exception as error:
        cause = _first_cause(error)
        name = cause.filename if isinstance(cause, OSError) else None
        place = path if name is None else Path(os.fsdecode(name))
        elsewhere = place.parent != path.parent and place not in path.parents
        if elsewhere or not (isinstance(cause, OSError) or "(os error" in str(cause)):
            raise
        reason = getattr(cause, "strerror", None)
        if reason is None:  # the writer has not passed it on
            reason = f"{cause} ({shutil.disk_usage(path.parent).free:,} bytes are free there)"
        raise OutputError(f"{path} cannot be written: {reason}{kept}") from error


def _first_cause(error: BaseException) -> BaseException:
    """The system's own error, under which others may have been raised."""
    while (earlier := error.__cause__ or error.__context__) is not None and not isinstance(error, OSError):
        error = earlier
    return error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Lets a file be written beside its place, syncs it and moves it there: readers see the old file or the new one.

    The file gets the permissions of any new file in that folder, whatever the writer set. If the block raises, what was
    written is removed and `path` stays as it was.

    Args:
        path: The file; its folder is made if it does not exist.

    Yields:
        A path of the same suffix at which the block creates the file.

    Raises:
        OutputError: The disk is full, or the system refuses the file.
    """
    with written(path, "; what was there before is kept" if path.exists() else ""):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path) as unfinished:
            yield unfinished
    with suppress(OSError):  # not every system can open a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A new file that becomes `path` when the block ends."""
    unfinished = path.with_name(f".{uuid4().hex}{path.suffix}")  # short, however long the name is
    try:
        unfinished.touch()  # the umask can be seen without changing it for all threads only in a new file
        mode = unfinished.stat().st_mode
        unfinished.unlink()
        yield unfinished
        unfinished.chmod(mode)
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, which is read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def check_output_file(path: Path) -> None:
    """Refuses a file that cannot be written; neither it nor its folder need exist."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file to write to")
    check_output_folder(path.parent)


def check_output_folder(path: Path) -> None:
    """Refuses a folder that cannot be written to, or made: it, or what it is to lie in, is a file or another's."""
    place = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not place.is_dir():
        raise ConfigError(f"{place} is a file; name a folder to write to")
    try:  # permissions do not say it all: network file systems, containers and full disks have a word in it
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ConfigError(f"{place} cannot be written to ({error.strerror}); name another folder") from error
