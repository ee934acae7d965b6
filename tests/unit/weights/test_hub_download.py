"""Fetching over a connection that breaks, from servers that lie, change their files, or send something else."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from helpers.file_server import FileServer, serving
from swin_dense.errors import WeightsError
from swin_dense.weights import download
from swin_dense.weights.hub import cached_path, fetch_weights

CONTENT = random.Random(5).randbytes(1_000_000)
NEWER = random.Random(6).randbytes(1_000_000)  # of the same size: only content and version tell them apart
CUT = 400_000


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("SWIN_DENSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    for name in ("SWIN_DENSE_MIRROR", "SWIN_DENSE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.001)
    with serving(CONTENT) as running:
        yield running


@pytest.fixture
def url(server: FileServer) -> str:
    return f"{server.address}/storage/model.pth"


@pytest.fixture
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 1)


def interrupt(server: FileServer, url: str) -> Path:
    """Leaves the first 400,000 bytes of a file."""
    server.cuts = [CUT]
    with pytest.raises(WeightsError, match=f"ended after {CUT:,} of 1,000,000 bytes.*{CUT:,} bytes are kept in"):
        fetch_weights(url)
    part = cached_path(url).with_name("model.pth.part")
    assert part.read_bytes() == CONTENT[:CUT]
    return part


def ranges_asked(server: FileServer) -> list[str | None]:
    return [headers["Range"] for _, headers in server.asked]


def names_beside(path: Path) -> set[str]:
    return {one.name for one in path.parent.iterdir() if one.suffix != ".lock"} if path.parent.is_dir() else set()


def test_a_file_arrives_whole_with_its_checksum_recorded_and_is_asked_for_once(server: FileServer, url: str) -> None:
    seen: list[tuple[int, int | None]] = []
    messages: list[str] = []
    path = fetch_weights(url, progress=lambda done, total: seen.append((done, total)), tell=messages.append)
    assert path.read_bytes() == CONTENT
    assert path.with_name("model.pth.sha256").read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  model.pth\n"
    assert names_beside(path) == {"model.pth", "model.pth.sha256"}
    assert messages == [f"no SHA-256 is published; the one it has is recorded in {path}.sha256"]
    assert seen[-1] == (1_000_000, 1_000_000)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert fetch_weights(url) == path
    assert len(server.asked) == 1


def test_a_broken_connection_is_resumed_at_once(server: FileServer, url: str) -> None:
    server.cuts = [CUT, 100_000]
    messages: list[str] = []
    assert fetch_weights(url, tell=messages.append).read_bytes() == CONTENT
    assert ranges_asked(server) == [None, "bytes=400000-", "bytes=500000-"]
    assert "resuming after 400,000 bytes" in messages


@pytest.mark.usefixtures("one_attempt")
def test_an_interrupted_download_goes_on_where_it_stopped(server: FileServer, url: str) -> None:
    interrupt(server, url)
    assert fetch_weights(url).read_bytes() == CONTENT
    assert ranges_asked(server) == [None, "bytes=400000-"]
    assert server.asked[1][1]["If-Range"] == '"first"'


@pytest.mark.usefixtures("one_attempt")
def test_a_weak_entity_tag_is_no_validator_but_the_date_is(server: FileServer, url: str) -> None:
    server.etag = 'W/"first"'
    interrupt(server, url)
    assert fetch_weights(url).read_bytes() == CONTENT
    assert server.asked[1][1]["If-Range"] == server.last_modified


@pytest.mark.usefixtures("one_attempt")
def test_what_no_validator_identifies_is_not_continued(server: FileServer, url: str) -> None:
    server.etag = server.last_modified = None
    interrupt(server, url)
    server.content = NEWER
    assert fetch_weights(url).read_bytes() == NEWER
    assert ranges_asked(server) == [None, None]


@pytest.mark.usefixtures("one_attempt")
def test_a_server_that_cannot_resume_sends_all_again(server: FileServer, url: str) -> None:
    interrupt(server, url)
    server.ranges = False
    messages: list[str] = []
    assert fetch_weights(url, tell=messages.append).read_bytes() == CONTENT
    assert ranges_asked(server) == [None, "bytes=400000-"]
    assert any("starting from the beginning" in message for message in messages)


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changed_is_never_mixed_with_the_old_one(
    if_range: bool, server: FileServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(download, "ATTEMPTS", 1)
        interrupt(server, url)
    server.content, server.etag, server.if_range = NEWER, '"second"', if_range
    assert fetch_weights(url).read_bytes() == NEWER


def test_a_file_that_became_shorter_than_what_has_arrived_is_downloaded_whole(
    server: FileServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(download, "ATTEMPTS", 1)
        interrupt(server, url)
    server.content, server.if_range = NEWER[:1000], False
    assert fetch_weights(url).read_bytes() == NEWER[:1000]


@pytest.mark.usefixtures("one_attempt")
def test_a_part_of_another_address_is_not_continued(server: FileServer, url: str) -> None:
    part = interrupt(server, url)
    state = download.state_of(part)
    state.write_text(state.read_text().replace("/storage/", "/elsewhere/"))
    assert fetch_weights(url).read_bytes() == CONTENT
    assert ranges_asked(server) == [None, None]


@pytest.mark.usefixtures("one_attempt")
def test_a_part_whose_record_is_damaged_is_not_continued(server: FileServer, url: str) -> None:
    download.state_of(interrupt(server, url)).write_text('{"url": ')
    assert fetch_weights(url).read_bytes() == CONTENT
    assert ranges_asked(server) == [None, None]


def test_ctrl_c_leaves_what_has_arrived(server: FileServer, url: str) -> None:
    def stop(done: int, total: int | None) -> None:
        if done >= 600_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_weights(url, progress=stop)
    assert not cached_path(url).exists()
    assert fetch_weights(url).read_bytes() == CONTENT
    start = ranges_asked(server)[1]
    assert start is not None and int(start.removeprefix("bytes=").removesuffix("-")) >= 600_000


def test_a_download_stopped_after_its_last_byte_asks_for_nothing_more(server: FileServer, url: str) -> None:
    def stop(done: int, total: int | None) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_weights(url, progress=stop)
    assert fetch_weights(url).read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize("failure", [500, 503, 429])
def test_a_passing_failure_is_tried_again(failure: int, server: FileServer, url: str) -> None:
    server.failures = [failure, failure]
    messages: list[str] = []
    assert fetch_weights(url, tell=messages.append).read_bytes() == CONTENT
    assert len(server.asked) == 3
    assert f"the server answered {failure}" in messages[0]


def test_attempts_end(server: FileServer, url: str) -> None:
    server.failures = [503] * 99
    with pytest.raises(WeightsError, match="503.*after 5 attempts; 0 bytes are kept"):
        fetch_weights(url)
    assert len(server.asked) == 5


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_final_refusal_is_not_tried_again(status: int, server: FileServer, url: str) -> None:
    server.failures = [status]
    with pytest.raises(WeightsError, match=rf"model\.pth: the server answered {status}"):
        fetch_weights(url)
    assert len(server.asked) == 1


def test_a_server_that_is_not_there_is_named(server: FileServer, url: str) -> None:
    server.server_close()
    with pytest.raises(WeightsError, match=r"model\.pth: the server cannot be reached .*after 5 attempts"):
        fetch_weights(url)


@pytest.mark.parametrize(
    ("content", "content_type", "headers", "what"),
    [
        (b"<p>Log in", "text/html; charset=utf-8", {}, "a web page"),
        (b"\n<!DOCTYPE html><title>Log in", "application/octet-stream", {}, "a web page"),
        (b'<?xml version="1.0"?><Error>', "application/octet-stream", {}, "a web page"),
        (CONTENT, "application/octet-stream", {"Content-Encoding": "gzip"}, "a file in gzip encoding"),
    ],
)
def test_something_else_than_weights_is_refused_and_not_kept(
    content: bytes, content_type: str, headers: dict[str, str], what: str, server: FileServer, url: str
) -> None:
    server.content, server.content_type, server.extra_headers = content, content_type, headers
    with pytest.raises(WeightsError, match=f"sent {what} instead of weights; a login page or proxy"):
        fetch_weights(url)
    assert names_beside(cached_path(url)) == set()
    assert len(server.asked) == 1


@pytest.mark.usefixtures("one_attempt")
def test_a_login_page_does_not_spoil_what_has_arrived(server: FileServer, url: str) -> None:
    part = interrupt(server, url)
    server.content, server.content_type, server.if_range = b"<html>Log in</html>", "text/html", True
    server.etag = server.last_modified = None
    with pytest.raises(WeightsError, match="a web page"):
        fetch_weights(url)
    assert part.read_bytes() == CONTENT[:CUT]


def test_a_wrong_checksum_names_both_and_leaves_nothing_under_the_name(server: FileServer, url: str) -> None:
    actual = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(WeightsError, match=f"has SHA-256 {actual}, but the given one is 0123456789abcdef"):
        fetch_weights(url, sha256="0123456789abcdef")
    path = cached_path(url)
    assert names_beside(path) == {"model.pth.rejected"}
    assert path.with_name("model.pth.rejected").read_bytes() == CONTENT
    assert fetch_weights(url, sha256=actual.upper()).read_bytes() == CONTENT


def test_a_length_that_is_not_announced_does_not_matter(server: FileServer, url: str) -> None:
    server.announces_length = False
    assert fetch_weights(url).read_bytes() == CONTENT


def test_a_redirect_is_followed_and_the_rest_asked_for_there_too(server: FileServer, url: str) -> None:
    server.cuts = [CUT]
    server.failures = [f"{server.address}/assets/1"]
    server_fails_again = [f"{server.address}/assets/2"]

    def redirect_again(message: str) -> None:
        server.failures.extend(server_fails_again)
        server_fails_again.clear()

    assert fetch_weights(url, tell=redirect_again).read_bytes() == CONTENT
    assert [(path, headers["Range"]) for path, headers in server.asked] == [
        ("/storage/model.pth", None),
        ("/assets/1", None),
        ("/storage/model.pth", "bytes=400000-"),
        ("/assets/2", "bytes=400000-"),
    ]


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/model.pth"])
def test_a_redirect_out_of_the_web_is_refused(target: str, server: FileServer, url: str) -> None:
    server.failures = [target]
    with pytest.raises(WeightsError, match=target):
        fetch_weights(url)


def test_a_redirect_from_an_encrypted_to_a_plain_connection_is_refused() -> None:
    answer = requests.Response()
    answer.url, answer.status_code = "https://example.org/model.pth", 302
    answer.headers["Location"] = "http://example.net/model.pth"
    with pytest.raises(WeightsError, match=r"redirects to http://example\.net/.*from https to http is refused"):
        download._check_redirect(answer)
    answer.headers["Location"] = "https://example.net/model.pth"
    download._check_redirect(answer)


def test_an_answer_without_content_is_no_file(server: FileServer, url: str) -> None:
    server.content = b""
    with pytest.raises(WeightsError, match="the server sent 0 of 0 bytes, after 5 attempts"):
        fetch_weights(url)
    assert names_beside(cached_path(url)) == set()


def test_several_at_once_download_once_and_get_the_same_file(server: FileServer, url: str) -> None:
    paths: list[Path] = []
    waiting: list[str] = []
    three_wait = threading.Event()

    def tell(message: str) -> None:
        if message == "waiting for another process that fetches model.pth":
            waiting.append(message)
        if len(waiting) == 3:
            three_wait.set()

    server.before_answer = lambda: three_wait.wait(timeout=10)
    threads = [threading.Thread(target=lambda: paths.append(fetch_weights(url, tell=tell))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1
    assert [path.read_bytes() == CONTENT for path in paths] == [True] * 4
    assert len(waiting) == 3
