"""One file over HTTP by `requests`: resumed where an earlier attempt stopped, never mixed from two versions.

What has arrived lies in NAME.part; NAME.part.json says which version of the file it is the beginning of. It is
continued only if the server confirms that version (RFC 9110: Range with If-Range), and otherwise replaced. It is ours
because huggingface_hub's `http_get` resumes with Range alone: where a file has changed, it would join two versions.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from swin_dense.errors import WeightsError

if TYPE_CHECKING:
    from requests import Response

BytesDone = Callable[[int, int | None], None]
"""Called with the number of bytes that are there, and of all, where that is known."""

Tell = Callable[[str], None]
"""Called with one line about what happens."""

ATTEMPTS = 5
FIRST_PAUSE = 1.0  # seconds; doubled after every attempt
TIMEOUT = 30.0  # seconds without a sign from the server

_PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses after which another attempt may succeed
_WEB_PAGE = re.compile(rb"\s*<(!doctype|html|head|body|\?xml)", re.IGNORECASE)


class _PassingError(Exception):
    """A failure after which another attempt may succeed."""


class _Version(NamedTuple):
    """Which version of a file a part is the beginning of."""

    url: str
    etag: str | None
    last_modified: str | None
    size: int | None

    @property
    def validator(self) -> str | None:
        """What If-Range takes: a strong entity tag, or else a date."""
        return self.etag if self.etag is not None and not self.etag.startswith("W/") else self.last_modified


def state_of(part: Path) -> Path:
    """The file that says which version a part belongs to."""
    return part.with_name(f"{part.name}.json")


def check_size(size: int, published_mib: float | None, source: str) -> None:
    """Compares a size in bytes with the published one, which is known to 0.001 MiB."""
    if published_mib is not None and abs(size / 2**20 - published_mib) > 0.001:
        raise WeightsError(
            f"{source} has {size:,} bytes ({size / 2**20:.3f} MiB), but {published_mib:.3f} MiB are published: "
            "it is another file, or not the whole of it"
        )


def download(url: str, part: Path, *, size_mib: float | None, progress: BytesDone, tell: Tell) -> None:
    """Completes the file `part`, which stays for the next call where `ATTEMPTS` attempts are not enough."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _transfer(url, part, size_mib, progress, tell)
        except _PassingError as error:
            if attempt == ATTEMPTS:
                kept = part.stat().st_size if part.exists() else 0
                raise WeightsError(
                    f"{url}: {error}, after {ATTEMPTS} attempts; {kept:,} bytes are kept in {part}, and the same "
                    "command resumes there"
                ) from error
            pause = FIRST_PAUSE * 2 ** (attempt - 1)
            tell(f"{error}; attempt {attempt + 1} of {ATTEMPTS} in {pause:g} s")
            time.sleep(pause)


def _transfer(url: str, part: Path, size_mib: float | None, progress: BytesDone, tell: Tell) -> None:
    """One attempt."""
    version = _version_of(part, url)
    done = part.stat().st_size if version else 0
    if version is not None and done == version.size:
        return
    rest = {"Range": f"bytes={done}-", "If-Range": str(version.validator)} if version else {}
    with _get(url, rest) as answer:
        if answer.status_code == 416 or (answer.status_code == 206 and not _continues(answer, version, done)):
            part.unlink(missing_ok=True)
            raise _PassingError("the file has changed on the server")
        if answer.status_code == 200 and done:
            tell("starting from the beginning: the file has changed, or the server cannot resume")
        if answer.status_code == 200 or version is None:
            length, done = answer.headers.get("Content-Length", ""), 0
            size = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
            version = _Version(url, answer.headers.get("ETag"), answer.headers.get("Last-Modified"), size)
        else:
            tell(f"resuming after {done:,} bytes")
        if version.size is not None:
            check_size(version.size, size_mib, url)
        _receive(answer, version, part, done, progress)
    check_size(part.stat().st_size, size_mib, url)


def _get(url: str, headers: dict[str, str]) -> Response:
    """Asks for the file, and sorts failures into passing and final ones."""
    import requests  # 0.1 s, for nothing but a download

    headers = {"User-Agent": "swin-dense", "Accept-Encoding": "identity", **headers}
    try:
        answer = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT, hooks={"response": _check_redirect})
    except requests.exceptions.SSLError as error:
        hint = "behind a proxy that signs its own certificates, set REQUESTS_CA_BUNDLE to its certificate authority"
        raise WeightsError(f"{url}: the connection is not trusted ({_root(error)}); {hint}") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _PassingError(f"the server cannot be reached ({_root(error)})") from error
    except requests.RequestException as error:
        raise WeightsError(f"{url} cannot be downloaded ({error})") from error
    if answer.status_code not in (200, 206, 416):
        message = f"the server answered {answer.status_code} {answer.reason}"
        raise _PassingError(message) if answer.status_code in _PASSING else WeightsError(f"{url}: {message}")
    what = "a web page" if re.match("text/html|application/xhtml", answer.headers.get("Content-Type", "")) else ""
    if (encoding := answer.headers.get("Content-Encoding", "identity")) != "identity":
        what = f"a file in {encoding} encoding"
    if what:
        raise WeightsError(_not_weights(url, what))
    return answer


def _receive(answer: Response, version: _Version, part: Path, done: int, progress: BytesDone) -> None:
    """Appends what arrives to the part; an answer that begins like a web page is refused before anything is written."""
    from urllib3.exceptions import HTTPError

    of_all = f" of {version.size:,}" if version.size is not None else ""
    try:
        for chunk in answer.raw.stream(1 << 18, decode_content=False):
            if not done:
                if _WEB_PAGE.match(chunk):
                    raise WeightsError(_not_weights(version.url, "a web page"))
                part.write_bytes(b"")
                state_of(part).write_text(json.dumps(version), encoding="utf-8")
            with part.open("ab") as file:
                file.write(chunk)
            done += len(chunk)
            progress(done, version.size)
    except HTTPError as error:
        raise _PassingError(f"the connection ended after {done:,}{of_all} bytes ({_root(error)})") from error
    if done == 0 or version.size not in (None, done):
        part.unlink(missing_ok=True)
        raise _PassingError(f"the server sent {done:,}{of_all} bytes")


def _check_redirect(answer: Response, **_: object) -> None:
    """Refuses to be led from an encrypted to a plain connection; other schemes than http(s) have no adapter."""
    target = answer.headers.get("Location", "")
    if answer.is_redirect and answer.url.startswith("https:") and target.startswith("http:"):
        raise WeightsError(f"{answer.url} redirects to {target}; from https to http is refused")


def _root(error: BaseException) -> BaseException:
    """The first cause: what the system said."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _not_weights(url: str, what: str) -> str:
    return f"{url} sent {what} instead of weights; a login page or proxy may stand between, or the address is wrong"


def _continues(answer: Response, version: _Version | None, done: int) -> bool:
    """Whether a partial answer is what was asked for; some servers ignore If-Range."""
    if version is None or not re.fullmatch(
        rf"bytes {done}-\d+/{version.size}", answer.headers.get("Content-Range", "")
    ):
        return False
    known = (("ETag", version.etag), ("Last-Modified", version.last_modified))
    return all(answer.headers.get(name, value) == value for name, value in known)


def _version_of(part: Path, url: str) -> _Version | None:
    """The version that a part can be continued as; None where there is no part, or no way to be sure of its version."""
    try:
        version = _Version(*json.loads(state_of(part).read_text(encoding="utf-8")))
        sure = version.url == url and version.validator is not None
        return version if sure and 0 < part.stat().st_size <= (version.size or 0) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None
