"""One file over HTTP: resumed where an earlier attempt stopped, never mixed from two versions.

What has arrived lies in NAME.part; NAME.part.json says which version of the file it is the beginning of. It is
continued only if the server confirms that version (RFC 9110: Range with If-Range); otherwise it starts anew.
"""

from __future__ import annotations

import http.client
import itertools
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from swin_dense.errors import WeightsError

Progress = Callable[[int, int | None], None]
"""Told how many bytes are there, and how many there will be, where that is known."""

Tell = Callable[[str], None]
"""Told what happens, in one line."""

ATTEMPTS = 5
FIRST_PAUSE = 1.0  # seconds; doubled after every attempt
TIMEOUT = 30.0  # seconds without a sign from the server

_CHUNK = 1 << 18
_MIB = 2**20
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # answers that another attempt may better
_WEB_PAGE = re.compile(rb"\s*<(!doctype|html|head|body|\?xml)", re.IGNORECASE)


class _PassingError(Exception):
    """Something that another attempt may better."""


@dataclass(frozen=True)
class _Version:
    """Which version of a file a part is the beginning of."""

    url: str
    etag: str | None
    last_modified: str | None
    size: int | None

    @property
    def validator(self) -> str | None:
        """What If-Range takes: a strong entity tag, or else a date."""
        strong = self.etag is not None and not self.etag.startswith("W/")
        return self.etag if strong else self.last_modified

    def rest_after(self, done: int) -> dict[str, str]:
        """Headers that ask for the rest of this version, or else for the whole of a newer one."""
        assert self.validator is not None
        return {"Range": f"bytes={done}-", "If-Range": self.validator}


def state_of(part: Path) -> Path:
    """Where the version of a part is noted.

    Args:
        part: The file that grows.

    Returns:
        The path beside it.
    """
    return part.with_name(f"{part.name}.json")


def check_size(size: int, published_mib: float | None, source: str) -> None:
    """Compares a size with the published one.

    Args:
        size: In bytes.
        published_mib: In MiB, known to 0.001 MiB; None if none is published.
        source: Names the file in the error.

    Raises:
        WeightsError: They differ.
    """
    if published_mib is not None and abs(size / _MIB - published_mib) > 0.001:
        raise WeightsError(
            f"{source} has {size:,} bytes ({size / _MIB:.3f} MiB), but {published_mib:.3f} MiB are published: "
            "it is another file, or not the whole of it"
        )


def download(url: str, part: Path, *, size_mib: float | None, progress: Progress, tell: Tell) -> None:
    """Downloads a file, going on where an earlier attempt stopped.

    Args:
        url: An http or https address; proxies come from the usual environment variables.
        part: The file that grows; complete when this returns.
        size_mib: The published size in MiB.
        progress: Told after every piece.
        tell: Told of resuming, starting anew and further attempts.

    Raises:
        WeightsError: The server has no such file, sends something else than weights or than the published size, or
            could not be reached in `ATTEMPTS` attempts; what has arrived stays in `part`.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _transfer(url, part, size_mib, progress, tell)
        except _PassingError as error:
            if attempt == ATTEMPTS:
                kept = part.stat().st_size if part.exists() else 0
                raise WeightsError(
                    f"{url}: {error}, after {ATTEMPTS} attempts; {kept:,} bytes are kept in {part}, and the same "
                    "command goes on from there"
                ) from error
            pause = FIRST_PAUSE * 2 ** (attempt - 1)
            tell(f"{error}; attempt {attempt + 1} of {ATTEMPTS} in {pause:g} s")
            time.sleep(pause)


def copy(source: Path, part: Path, *, size_mib: float | None, progress: Progress) -> None:
    """Copies a file of a mirror that is a folder.

    Args:
        source: The file.
        part: Where to; replaced.
        size_mib: The published size in MiB.
        progress: Told after every piece.

    Raises:
        WeightsError: There is no such file, or it has not the published size.
    """
    if not source.is_file():
        raise WeightsError(f"there is no file {source}")
    size = source.stat().st_size
    check_size(size, size_mib, str(source))
    state_of(part).unlink(missing_ok=True)
    with source.open("rb") as file, part.open("wb") as copied:
        while chunk := file.read(_CHUNK):
            copied.write(chunk)
            progress(copied.tell(), size)


def _transfer(url: str, part: Path, size_mib: float | None, progress: Progress, tell: Tell) -> None:
    """One attempt."""
    version = _version_of(part, url)
    done = part.stat().st_size if version else 0
    if version is not None and done == version.size:
        return
    with _open(url, version.rest_after(done) if version else {}, part) as answer:
        _refuse_other_than_weights(url, answer.headers)
        if answer.status == 206 and version is not None:
            _check_continuation(answer.headers, version, done, part)
            tell(f"going on after {done:,} bytes")
        elif answer.status == 200:
            if done:
                tell("starting anew: the file has changed, or the server cannot resume")
            version, done = _version_in(url, answer.headers), 0
        else:
            raise WeightsError(f"{url}: the server answered {answer.status}, not with the file")
        if version.size is not None:
            check_size(version.size, size_mib, url)
        _append(url, _chunks(answer), part, version, done, progress)
    arrived = part.stat().st_size
    if version.size is not None and arrived < version.size:
        raise _PassingError(f"the connection ended after {arrived:,} of {version.size:,} bytes")
    if version.size is not None and arrived > version.size:
        _discard(part)
        raise _PassingError(f"the server sent more than the {version.size:,} bytes that it had announced")
    check_size(arrived, size_mib, url)


def _append(url: str, chunks: Iterator[bytes], part: Path, version: _Version, done: int, progress: Progress) -> None:
    """Writes what arrives; at the beginning of a file, looks first at what it is."""
    first = next(chunks, b"")
    if done == 0:
        if _WEB_PAGE.match(first):
            raise WeightsError(_not_weights(url, "a web page"))
        part.write_bytes(b"")
        state_of(part).write_text(json.dumps(asdict(version)), encoding="utf-8")
    with part.open("ab") as file:
        for chunk in itertools.chain((first,), chunks):
            file.write(chunk)
            done += len(chunk)
            progress(done, version.size)


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := answer.read1(_CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(f"the connection broke ({error or type(error).__name__})") from error


def _open(url: str, headers: dict[str, str], part: Path) -> http.client.HTTPResponse:
    """Asks for the file, and sorts what may go wrong into what passes and what does not."""
    try:
        request = Request(url, headers={"User-Agent": "swin-dense", **headers})
        answer: http.client.HTTPResponse = build_opener(_Redirects).open(request, timeout=TIMEOUT)
        return answer
    except HTTPError as error:
        if error.code == 416:  # what is there is longer than the file
            _discard(part)
            raise _PassingError("the file has changed on the server") from error
        if error.code in _PASSING:
            raise _PassingError(f"the server answered {error.code} {error.reason}") from error
        raise WeightsError(f"{url}: the server answered {error.code} {error.reason}") from error
    except (http.client.InvalidURL, ValueError) as error:
        raise WeightsError(f"{url} is no address to download from ({error})") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise WeightsError(
                f"{url}: the server's certificate is not trusted ({reason.verify_message}); behind a proxy that signs "
                "its own, set SSL_CERT_FILE to its certificate authority"
            ) from error
        raise _PassingError(f"the server cannot be reached ({reason})") from error


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to the web alone, and none from an encrypted to a plain connection."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise WeightsError(f"{req.full_url} redirects to {newurl}; from {req.type} to {scheme} is refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refuse_other_than_weights(url: str, headers: http.client.HTTPMessage) -> None:
    if headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise WeightsError(_not_weights(url, "a web page"))
    encoding = headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise WeightsError(_not_weights(url, f"a file in {encoding} encoding"))


def _not_weights(url: str, what: str) -> str:
    return f"{url} sent {what} instead of weights; a login page or proxy may stand between, or the address is wrong"


def _check_continuation(headers: http.client.HTTPMessage, version: _Version, done: int, part: Path) -> None:
    """Holds a partial answer against what was asked; some servers ignore If-Range."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", "").strip())
    same = found is not None and int(found[1]) == done and int(found[2]) == version.size
    for name, known in (("ETag", version.etag), ("Last-Modified", version.last_modified)):
        same = same and headers.get(name, known) == known
    if not same:
        _discard(part)
        raise _PassingError("the file has changed on the server")


def _version_in(url: str, headers: http.client.HTTPMessage) -> _Version:
    length = headers.get("Content-Length", "")
    size = int(length) if length.isascii() and length.isdigit() else None
    return _Version(url, headers.get("ETag"), headers.get("Last-Modified"), size)


def _version_of(part: Path, url: str) -> _Version | None:
    """The version that a part can be continued as; None if there is nothing to go on from, or no way to be sure."""
    try:
        version = _Version(**json.loads(state_of(part).read_text(encoding="utf-8")))
        size = part.stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    sure = version.url == url and version.size is not None and version.validator is not None
    return version if sure and 0 < size <= (version.size or 0) else None


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    state_of(part).unlink(missing_ok=True)
