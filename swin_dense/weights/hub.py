"""Published weights on this machine: fetched once, checked always.

Nothing is downloaded unless `fetch_weights` is called. Three environment variables say from where and where to:

- `SWIN_DENSE_CACHE`: the folder of the cache; else `$XDG_CACHE_HOME/swin-dense`, else `~/.cache/swin-dense`. A
  published file lies there under its own name, one of another address under `urls/<digest of the address>/`.
- `SWIN_DENSE_MIRROR`: an http(s) address, a `file://` address or a folder, which stands for scheme and host of *every*
  address: `https://github.com/SwinTransformer/...` is read from `MIRROR/SwinTransformer/...`, and nowhere else.
- `SWIN_DENSE_OFFLINE=1`: the network is not used; there are the cache, and a mirror that is a folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from filelock import FileLock, Timeout

from swin_dense.errors import WeightsError
from swin_dense.files import atomic_write, sha256_of
from swin_dense.weights.download import BytesDone, Tell, check_size, download, state_of
from swin_dense.weights.releases import RELEASES, Release, find_release

_SAYS = {"given": "the given one is", "published": "its publisher says", "recorded": "it had when downloaded"}


@dataclass(frozen=True)
class Verification:
    """A file's checksum and what it should be."""

    path: Path
    sha256: str
    expected: str | None  # or the first digits of it; None if it is not known
    source: Literal["given", "published", "recorded"] | None  # of `expected`; recorded: when downloaded

    @property
    def matches(self) -> bool:
        """Whether the file is what it should be; False if that is not known."""
        return self.expected is not None and self.sha256.startswith(self.expected)


def fetch_weights(
    name: str,
    *,
    sha256: str | None = None,
    progress: BytesDone = lambda done, total: None,
    tell: Tell = lambda message: None,
) -> Path:
    """Finds weights in the cache, or downloads them to it.

    An interrupted download resumes where it stopped. Several processes may ask for the same file: one downloads, the
    others wait. The file appears under its name only when its size and checksum are right.

    Args:
        name: A name of `RELEASES`, or an http or https address.
        sha256: The SHA-256 of the file, or at least its first 8 digits; it takes the place of the published one.
        progress: Called while downloading with the number of bytes that are there and of all (None: unknown).
        tell: Called with one line about resuming, waiting and further attempts.

    Returns:
        The file in the cache, just checked: against `sha256`, or else the published checksum, or else the one recorded
        when it was downloaded.

    Raises:
        WeightsError: The name is unknown, the file cannot be had, or it is not the one that was published.

    Example:
        With a mirror that is a folder, nothing is downloaded:

        >>> import os, tempfile
        >>> from pathlib import Path
        >>> from unittest.mock import patch
        >>> from swin_dense.weights import fetch_weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "model.pth").write_bytes(b"weights")
        ...     with patch.dict(os.environ, SWIN_DENSE_MIRROR=folder, SWIN_DENSE_CACHE=f"{folder}/cache"):
        ...         path = fetch_weights("https://example.org/model.pth")
        ...     path.name, path.read_bytes()
        ('model.pth', b'weights')
    """
    target, given = cached_path(name), _checked_digits(sha256)
    try:
        if not target.is_file():
            source = _source(name, target)
            target.parent.mkdir(parents=True, exist_ok=True)
            with _alone(target, tell):
                if not target.is_file():
                    _obtain(name, source, target, given, progress, tell)
                    return target
    except OSError as error:
        raise WeightsError(f"{target} cannot be written ({error}); SWIN_DENSE_CACHE names another folder") from error
    found = _verify(target, given)
    if found.expected is not None and not found.matches:
        raise WeightsError(f"{_mismatch(found)}; delete it to fetch it again")
    return target


def verify_weights(name_or_file: str | Path, *, sha256: str | None = None) -> Verification:
    """Computes the checksum of a file and compares it with what it should be.

    Args:
        name_or_file: A name of `RELEASES` or an address, for the file in the cache; or any file. A file of a release's
            file name is compared with that release.
        sha256: What it should be, or at least its first 8 digits; otherwise what is published counts, and where
            nothing is, what was recorded when it was downloaded.

    Returns:
        Both checksums, whether they match or not.

    Raises:
        WeightsError: There is no such file, or it cannot be read.

    Example:
        >>> import hashlib, tempfile
        >>> from pathlib import Path
        >>> from swin_dense.weights import verify_weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.pth")
        ...     _ = path.write_bytes(b"weights")
        ...     found = verify_weights(path, sha256=hashlib.sha256(b"weights").hexdigest()[:8])
        >>> found.matches, found.source
        (True, 'given')
    """
    given = _checked_digits(sha256)
    known = str(name_or_file) in RELEASES or "://" in str(name_or_file)
    path = cached_path(str(name_or_file)) if known else Path(name_or_file)
    if not path.is_file():
        hint = f"swin-dense weights fetch {name_or_file}" if known else "see swin-dense weights list for names"
        raise WeightsError(f"there is no file {path}; {hint}")
    return _verify(path, given)


def cached_path(name: str) -> Path:
    """Where the file of a release's name or of an address lies in the cache, or would lie."""
    if release := _release(name):
        return cache_folder() / release.file_name
    file_name = unquote(urlsplit(name).path).rpartition("/")[2]
    if urlsplit(name).scheme not in ("http", "https") or not re.fullmatch(r"[\w+=-][\w.+=-]*", file_name):
        raise WeightsError(f"{name} is not an http or https address of a file")
    return cache_folder() / "urls" / hashlib.sha256(name.encode()).hexdigest()[:16] / file_name


def cache_folder() -> Path:
    """`SWIN_DENSE_CACHE`, else `$XDG_CACHE_HOME/swin-dense`, else `~/.cache/swin-dense`; it need not exist."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    try:
        if own := os.environ.get("SWIN_DENSE_CACHE"):
            return Path(own).expanduser()
        return (base if base.is_absolute() else Path.home() / ".cache") / "swin-dense"  # XDG: no relative paths
    except RuntimeError as error:  # a container may run as a number without a name
        raise WeightsError("this user has no home folder: set SWIN_DENSE_CACHE to a folder for weights") from error


def _release(name: str) -> Release | None:
    """The release of a name or an address; None for an address that is not in the table."""
    if "://" in name:
        return next((release for release in RELEASES.values() if release.url == name), None)
    return find_release(name)


def _source(name: str, target: Path) -> str | Path:
    """The address to download from, or the file of a mirror that is a folder."""
    release = _release(name)
    url = release.url if release else name
    mirror = os.environ.get("SWIN_DENSE_MIRROR", "")
    place = _mirrored(url, mirror) if mirror else url
    if _offline() and isinstance(place, str):
        raise WeightsError(
            f"SWIN_DENSE_OFFLINE is set and {name} is not in the cache; download {url} elsewhere and place it as "
            f"{target}"
        )
    return place


def _mirrored(url: str, mirror: str) -> str | Path:
    """Puts the mirror in the place of scheme and host."""
    path, query = urlsplit(url).path.lstrip("/"), urlsplit(url).query
    scheme = urlsplit(mirror).scheme if "://" in mirror else ""
    if scheme in ("http", "https"):
        return f"{mirror.rstrip('/')}/{path}" + (f"?{query}" if query else "")
    folder = Path(url2pathname(urlsplit(mirror).path)) if scheme == "file" else Path(os.path.expanduser(mirror))
    if scheme not in ("", "file") or not folder.is_dir():
        raise WeightsError(f'SWIN_DENSE_MIRROR="{mirror}" is neither an http or https address nor a folder')
    file = folder / unquote(path)
    if ".." in file.parts:
        raise WeightsError(f"{url} leads out of the mirror")
    return file


def _offline() -> bool:
    value = os.environ.get("SWIN_DENSE_OFFLINE", "").lower()
    if value in ("", "0", "false", "no", "off"):
        return False
    if value in ("1", "true", "yes", "on"):
        return True
    raise WeightsError(f'SWIN_DENSE_OFFLINE="{value}" means neither yes nor no; set it to 1 or 0')


@contextmanager
def _alone(target: Path, tell: Tell) -> Iterator[None]:
    """Lets one process at a time fetch a file; the system frees the lock of a process that dies."""
    lock = FileLock(f"{target}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        tell(f"waiting for another process that fetches {target.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _obtain(name: str, source: str | Path, target: Path, given: str | None, progress: BytesDone, tell: Tell) -> None:
    """Brings a file under its name, checked, and records its checksum beside it."""
    part, release = target.with_name(f"{target.name}.part"), _release(name)
    size_mib = release.size_mib if release else None
    try:
        if isinstance(source, str):
            download(source, part, size_mib=size_mib, progress=progress, tell=tell)
        else:
            _copy(source, part, size_mib, progress)
    except WeightsError as error:
        raise WeightsError(f"{error}{' (SWIN_DENSE_MIRROR is set)' * ('SWIN_DENSE_MIRROR' in os.environ)}") from error
    expected, said_by = _expected(target, given, recorded=False)
    found = Verification(part, _sha256_of(part), expected, said_by)
    state_of(part).unlink(missing_ok=True)
    if expected is not None and not found.matches:
        part.replace(target.with_name(f"{target.name}.rejected"))
        raise WeightsError(f"{source}: {_mismatch(found)}; it is kept as {target.name}.rejected and not used")
    with atomic_write(_record_of(target)) as record:
        record.write_text(f"{found.sha256}  {target.name}\n", encoding="utf-8")
    if expected is None:
        tell(f"no SHA-256 is published; the one it has is recorded in {_record_of(target)}")
    part.replace(target)


def _copy(source: Path, part: Path, size_mib: float | None, progress: BytesDone) -> None:
    """Copies a file of a mirror that is a folder."""
    if not source.is_file():
        raise WeightsError(f"there is no file {source}")
    size = source.stat().st_size
    check_size(size, size_mib, str(source))
    state_of(part).unlink(missing_ok=True)
    shutil.copyfile(source, part)
    progress(size, size)


def _verify(path: Path, given: str | None) -> Verification:
    return Verification(path, _sha256_of(path), *_expected(path, given, recorded=True))


def _expected(
    path: Path, given: str | None, *, recorded: bool
) -> tuple[str | None, Literal["given", "published", "recorded"] | None]:
    """What a file's SHA-256 should begin with, and where that comes from."""
    if given is not None:
        return given, "given"
    published = next((one.sha256_prefix for one in RELEASES.values() if one.file_name == path.name), None)
    if published is not None:
        return published, "published"
    record = _record_of(path)
    if not recorded or not record.is_file():
        return None, None
    words = record.read_text(encoding="utf-8", errors="replace").split()
    if not words or not re.fullmatch(r"[0-9a-f]{64}", words[0]):
        raise WeightsError(f"{record} holds no SHA-256; delete it")
    return words[0], "recorded"


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sha256_of(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error})") from error


def _checked_digits(sha256: str | None) -> str | None:
    digits = None if sha256 is None else sha256.strip().lower()
    if digits is not None and not re.fullmatch(r"[0-9a-f]{8,64}", digits):
        raise WeightsError(f'"{sha256}" is not a SHA-256: 64 hexadecimal digits, or at least the first 8')
    return digits


def _mismatch(found: Verification) -> str:
    return f"{found.path} has SHA-256 {found.sha256}, but {_SAYS[found.source or 'given']} {found.expected}"
