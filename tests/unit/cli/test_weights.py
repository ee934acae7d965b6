"""`swin-dense weights list|fetch|verify`: what goes to stdout, and the exit status."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.commands import answer, command
from helpers.file_server import FileServer, serving
from swin_dense.weights import hub
from swin_dense.weights.hub import cached_path
from swin_dense.weights.releases import RELEASES

CONTENT = b"\x80\x02 weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SWIN_DENSE_MIRROR", "SWIN_DENSE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SWIN_DENSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(CONTENT) as running:
        yield running


def test_list_shows_what_is_published_and_says_where_nothing_is(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.mkdir()
    (cache / "swin_t-704ceda3.pth").write_bytes(CONTENT)
    assert command("weights", "list", "ImageNet-1K", "swin_tiny", "classification") == 0
    assert capsys.readouterr().out.splitlines() == [
        "swin_tiny_patch4_window7_224",
        "    classification (ImageNet-1K); swin_tiny; official format; 109.0 MiB; SHA-256 not published",
        "swin_tiny_patch4_window7_224_22kto1k_finetune",
        "    classification (ImageNet-22K, ImageNet-1K); swin_tiny; official format; size not published; "
        "SHA-256 not published",
        "swin_t",
        "    classification (ImageNet-1K); swin_tiny; torchvision format; 108.2 MiB; SHA-256 704ceda3...; in the cache",
    ]


def test_names_are_never_broken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert command("weights", "list") == 0
    assert set(RELEASES) <= set(capsys.readouterr().out.splitlines())


def test_list_prints_json(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    releases = answer(capsys, "weights", "list", "torchvision", "--json")["releases"]
    assert releases[0] == {
        "name": "swin_t",
        "url": "https://download.pytorch.org/models/swin_t-704ceda3.pth",
        "task": "classification",
        "data": "ImageNet-1K",
        "variant": "swin_tiny",
        "format": "torchvision",
        "size_mib": 108.19,
        "sha256_prefix": "704ceda3",
        "file_name": "swin_t-704ceda3.pth",
        "cached": None,
    }
    assert len(answer(capsys, "weights", "list", "--json")["releases"]) == len(RELEASES)


def test_fetch_prints_the_path_alone_on_stdout(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{server.address}/model.pth"
    assert command("weights", "fetch", url, "--sha256", SHA256[:12]) == 0
    assert capsys.readouterr().out == f"{cached_path(url)}\n"
    assert cached_path(url).read_bytes() == CONTENT


def test_a_fetch_that_resumes_prints_the_path_of_a_published_file_alone_on_stdout(
    server: FileServer, cache: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that `W=$(swin-dense weights fetch NAME)` works, whatever there is to tell on the way."""
    monkeypatch.setenv("SWIN_DENSE_MIRROR", server.address)
    server.cuts = [5000]
    name = "swin_tiny_patch4_window7_224_22kto1k_finetune"  # neither its size nor its checksum is published
    for _ in range(2):
        assert command("weights", "fetch", name) == 0
        captured = capfd.readouterr()
        assert captured.out == f"{cache / RELEASES[name].file_name}\n"
    assert len(server.asked) == 2
    assert cached_path(name).read_bytes() == CONTENT


def test_fetch_of_a_wrong_file_is_an_error_without_output(
    server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("weights", "fetch", f"{server.address}/model.pth", "--sha256", "01234567") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"has SHA-256 {SHA256}, but the given one is 01234567" in captured.err
    assert "Traceback" not in captured.err


def test_ctrl_c_says_that_the_command_resumes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(name: str, **options: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(hub, "fetch_weights", stopped)
    assert command("weights", "fetch", "swin_t") == 130
    captured = capsys.readouterr()
    assert (captured.out, "resumes there" in captured.err) == ("", True)


def test_verify_says_right_or_wrong_and_by_whom(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.mkdir()
    (cache / "swin_t-704ceda3.pth").write_bytes(CONTENT)
    assert command("weights", "verify", "swin_t") == 1
    out = capsys.readouterr().out
    assert "WRONG" in out and "expected (published): 704ceda3" in out and f"actual: {SHA256}" in out
    assert command("weights", "verify", "swin_t", "--sha256", SHA256) == 0
    out = capsys.readouterr().out
    assert "right" in out and f"expected (given): {SHA256}" in out


def test_verify_is_honest_where_nothing_is_published(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{server.address}/model.pth"
    assert command("weights", "fetch", url) == 0
    assert command("weights", "verify", url) == 0
    assert f"no published checksum: SHA-256 is {SHA256}, as recorded at download" in capsys.readouterr().out
    (tmp_path / "mine.pth").write_bytes(CONTENT)
    assert command("weights", "verify", str(tmp_path / "mine.pth")) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no checksum to compare it with" in captured.err and SHA256 in captured.err
