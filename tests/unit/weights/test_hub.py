"""The cache of published weights: where files lie, mirrors, offline machines, and checksums."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.file_server import FileServer, serving
from swin_dense.errors import WeightsError
from swin_dense.weights import download, hub
from swin_dense.weights.hub import cache_folder, cached_path, fetch_weights, verify_weights
from swin_dense.weights.releases import RELEASES, Release

PACKAGE = Path(hub.__file__).resolve().parents[1]
CONTENT = b"\x80\x02 weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PLAIN = "swin_tiny_patch4_window7_224_22k"  # nothing is published but the address
ADDRESS = "https://download.example.org/folder/tiny.pth"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SWIN_DENSE_MIRROR", "SWIN_DENSE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SWIN_DENSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.001)
    return tmp_path / "cache"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Release:
    """A release with everything published."""
    size = len(CONTENT) / 2**20
    release = Release("tiny", ADDRESS, "classification", "ImageNet-1K", "swin_tiny", "official", size, SHA256[:8])
    monkeypatch.setitem(RELEASES, "tiny", release)
    return release


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(CONTENT) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror that is a folder."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    monkeypatch.setenv("SWIN_DENSE_MIRROR", str(mirror))
    return mirror


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("SWIN_DENSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "swin-dense"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache_folder() == tmp_path / "home" / ".cache" / "swin-dense"


def test_a_release_lies_under_its_file_name_by_name_and_by_address(cache: Path) -> None:
    assert cached_path("swin_t") == cached_path(RELEASES["swin_t"].url) == cache / "swin_t-704ceda3.pth"


def test_files_of_the_same_name_from_different_addresses_do_not_meet(cache: Path) -> None:
    one, other = cached_path("https://a.org/model.pth"), cached_path("https://b.org/model.pth")
    assert one != other and {one.name, other.name} == {"model.pth"}
    assert one.is_relative_to(cache)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("swin_tiny_patch4_window7_244", "did you mean swin_tiny_patch4_window7_224"),
        ("xyz", "swin-dense weights list shows them"),
        ("ftp://example.org/model.pth", "not an http or https address of a file"),
        ("file:///etc/passwd", "not an http or https address of a file"),
        ("https://example.org/", "not an http or https address of a file"),
        ("https://example.org/..", "not an http or https address of a file"),
        ("https://example.org/%2e%2e%2fpasswd%00", "not an http or https address of a file"),
    ],
)
def test_a_wrong_name_is_an_error(name: str, message: str, cache: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        fetch_weights(name)
    assert not cache.exists()


def test_a_mirror_stands_for_scheme_and_host(
    server: FileServer, published: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWIN_DENSE_MIRROR", f"{server.address}/mirrors/swin/")
    assert fetch_weights("tiny").read_bytes() == CONTENT
    assert fetch_weights("https://other.example.org/a%20b/model.pth?download=1").read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == [
        "/mirrors/swin/folder/tiny.pth",
        "/mirrors/swin/a%20b/model.pth?download=1",
    ]


def test_a_mirror_without_the_file_is_named(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIN_DENSE_MIRROR", server.address)
    server.failures = [404]
    with pytest.raises(WeightsError, match=rf"{server.address}/.*answered 404.*\(SWIN_DENSE_MIRROR is set\)"):
        fetch_weights(PLAIN)


@pytest.mark.parametrize("as_address", [False, True])
@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_mirror_may_be_a_folder_even_offline(
    offline: str, as_address: bool, folder: Path, published: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder / "folder" / "tiny.pth")
    monkeypatch.setenv("SWIN_DENSE_OFFLINE", offline)
    if as_address:
        monkeypatch.setenv("SWIN_DENSE_MIRROR", folder.as_uri())
    seen: list[tuple[int, int | None]] = []
    assert fetch_weights("tiny", progress=lambda *now: seen.append(now)).read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_folder_without_the_file_is_named(folder: Path, published: Release) -> None:
    with pytest.raises(WeightsError, match=rf"there is no file {folder}/folder/tiny\.pth \(SWIN_DENSE_MIRROR is set"):
        fetch_weights("tiny")


def test_an_address_cannot_lead_out_of_a_mirror(folder: Path) -> None:
    put(folder.parent / "secret.pth")
    with pytest.raises(WeightsError, match="leads out of the mirror"):
        fetch_weights("https://example.org/%2e%2e/secret.pth")


@pytest.mark.parametrize("mirror", ["absent", "ftp://example.org", "s3://bucket"])
def test_a_mirror_that_is_none_is_an_error(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIN_DENSE_MIRROR", mirror)
    with pytest.raises(WeightsError, match=f'SWIN_DENSE_MIRROR="{mirror}" is neither'):
        fetch_weights(PLAIN)


def test_offline_says_what_to_place_where(
    cache: Path, server: FileServer, published: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWIN_DENSE_OFFLINE", "1")
    monkeypatch.setenv("SWIN_DENSE_MIRROR", server.address)
    with pytest.raises(WeightsError, match=rf"download {ADDRESS} elsewhere and place it as {cache}/tiny\.pth"):
        fetch_weights("tiny")
    assert server.asked == []
    put(cache / "tiny.pth")
    assert fetch_weights("tiny") == cache / "tiny.pth"


def test_offline_takes_no_unclear_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIN_DENSE_OFFLINE", "maybe")
    with pytest.raises(WeightsError, match='SWIN_DENSE_OFFLINE="maybe" means neither yes nor no'):
        fetch_weights(PLAIN)


def test_the_published_checksum_is_held_against_a_download(folder: Path, cache: Path, published: Release) -> None:
    put(folder / "folder" / "tiny.pth", CONTENT[::-1])
    with pytest.raises(WeightsError, match=f"has SHA-256 [0-9a-f]{{64}}, but its publisher says {SHA256[:8]}"):
        fetch_weights("tiny")
    assert not (cache / "tiny.pth").exists()


@pytest.mark.parametrize("local", [True, False])
def test_the_published_size_is_held_against_a_download(
    local: bool, tmp_path: Path, server: FileServer, published: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = CONTENT * 2
    put(tmp_path / "mirror" / "folder" / "tiny.pth", CONTENT * 2)
    monkeypatch.setenv("SWIN_DENSE_MIRROR", str(tmp_path / "mirror") if local else server.address)
    with pytest.raises(WeightsError, match=r"has 20,000 bytes \(0\.019 MiB\), but 0\.010 MiB are published"):
        fetch_weights("tiny")


def test_a_cached_file_that_was_damaged_is_not_handed_out(folder: Path) -> None:
    put(folder / "folder" / "plain.pth")
    path = fetch_weights("https://example.org/folder/plain.pth")
    put(path, CONTENT + b"!")
    with pytest.raises(WeightsError, match=f"but it had when downloaded {SHA256}; delete it to fetch it again"):
        fetch_weights("https://example.org/folder/plain.pth")


def test_a_cache_that_cannot_be_written_is_an_error(cache: Path, folder: Path) -> None:
    put(cache, b"a file where the folder should be")
    with pytest.raises(WeightsError, match="cannot be written .*SWIN_DENSE_CACHE names another folder"):
        fetch_weights(PLAIN)


@pytest.mark.parametrize("digits", ["1234567", "not hexadecimal", "0" * 65])
def test_a_checksum_that_is_none_is_an_error(digits: str, published: Release) -> None:
    for function in (fetch_weights, verify_weights):
        with pytest.raises(WeightsError, match="is not a SHA-256"):
            function("tiny", sha256=digits)


def test_verify_holds_a_file_against_what_is_published(cache: Path, tmp_path: Path, published: Release) -> None:
    put(cache / "tiny.pth")
    for name in ("tiny", ADDRESS, cache / "tiny.pth", put(tmp_path / "elsewhere" / "tiny.pth")):
        found = verify_weights(name)
        assert (found.matches, found.expected, found.source) == (True, SHA256[:8], "published")
        assert found.sha256 == SHA256
    put(cache / "tiny.pth", CONTENT[:-1])
    assert not verify_weights("tiny").matches


def test_what_is_given_takes_the_place_of_what_is_published(cache: Path, published: Release) -> None:
    put(cache / "tiny.pth", CONTENT[:-1])
    actual = hashlib.sha256(CONTENT[:-1]).hexdigest()
    assert verify_weights("tiny", sha256=actual).matches
    assert fetch_weights("tiny", sha256=actual).is_file()
    assert not verify_weights("tiny", sha256=SHA256).matches


def test_verify_falls_back_on_what_was_recorded(folder: Path) -> None:
    put(folder / "folder" / "plain.pth")
    path = fetch_weights("https://example.org/folder/plain.pth")
    assert (verify_weights(path).matches, verify_weights(path).source) == (True, "recorded")
    put(path, CONTENT[:-1])
    assert not verify_weights(path).matches
    path.with_name("plain.pth.sha256").write_text("nonsense")
    with pytest.raises(WeightsError, match=r"plain\.pth\.sha256 holds no SHA-256"):
        verify_weights(path)


def test_verify_claims_nothing_that_nobody_published(tmp_path: Path) -> None:
    found = verify_weights(put(tmp_path / "mine.pth"))
    assert (found.matches, found.expected, found.source, found.sha256) == (False, None, None, SHA256)


@pytest.mark.parametrize("name", ["tiny", "absent.pth"])
def test_verify_needs_a_file(name: str, published: Release) -> None:
    with pytest.raises(WeightsError, match="there is no file"):
        verify_weights(name)


def test_nothing_but_the_fetch_command_and_function_reaches_the_network() -> None:
    reaching = ("swin_dense.weights.hub", "swin_dense.weights.download", "urllib.request", "http.client", "requests")
    importing = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and node.module in reaching)
        or (isinstance(node, ast.Import) and any(one.name in reaching for one in node.names))
    }
    assert importing - {"weights/__init__.py"} == {"cli/weights.py", "weights/download.py", "weights/hub.py"}


def test_a_user_without_a_home_is_asked_for_a_cache(monkeypatch: pytest.MonkeyPatch, published: Release) -> None:
    for name in ("SWIN_DENSE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # raises the KeyError of a number without a name
    with pytest.raises(WeightsError, match="no home folder: set SWIN_DENSE_CACHE to a folder"):
        fetch_weights("tiny")
    monkeypatch.setenv("SWIN_DENSE_CACHE", "~/cache")
    with pytest.raises(WeightsError, match="no home folder"):
        fetch_weights("tiny")
