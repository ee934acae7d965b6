"""`swin-dense serve` of every task in a real browser: drop a file, move the threshold, download; nothing stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.video_files import write_frames
from swin_dense.config import load_config
from swin_dense.data.shapes import write_shapes
from swin_dense.models import build
from swin_dense.weights import save_weights

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RECIPES = {
    "detection": ("mask-rcnn_swin-nano_shapes", {"category_id", "category", "bbox", "score", "segmentation"}),
    "segmentation": ("upernet_swin-nano_shapes", {"category_id", "category", "segmentation"}),
    "classification": ("swin-nano_shapes", {"category", "score"}),
    "video": ("swin3d-nano_moving-shapes", {"category", "score"}),
}
"""A config of each task, and what the rows of its JSON have."""


@pytest.fixture(scope="module", params=RECIPES)
def task(request: pytest.FixtureRequest) -> str:
    """One after the other, so that each has one server."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'swin-dense[serve]'")
    return str(request.param)


@pytest.fixture(scope="module")
def place(task: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a model, a file that it reads, one that it cannot, and a folder for temporary files."""
    folder = tmp_path_factory.mktemp(task)
    names = ["circle", "<b>square"]
    labels = {"class_names": names, **({"category_ids": [1, 2]} if task == "detection" else {})}
    metadata = {name: json.dumps(value) for name, value in labels.items()}
    save_weights(build(load_config(RECIPES[task][0]), 2).network, folder / "weights.safetensors", metadata=metadata)
    if task == "video":
        write_frames(folder / "good.mp4")
    else:
        write_shapes(folder / "shapes", train=1, val=1)
        next((folder / "shapes/images/val").iterdir()).rename(folder / "good.jpg")
    next(folder.glob("good.*")).with_stem("notes").write_text("neither picture nor video")
    (folder / "temporary").mkdir()
    return folder


@pytest.fixture(scope="module")
def server(task: str, place: Path) -> Iterator[str]:
    """The address of the page; stopped as a service manager does it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--weights", "weights.safetensors", "--port", str(port), "--max-mib", "1", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "swin_dense.cli", "serve", RECIPES[task][0], *words],
        cwd=place,
        env={**os.environ, "TMPDIR": str(place / "temporary"), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("http://"):
            break
    else:
        pytest.fail("the page did not start: " + "".join(lines))
    yield line.split()[0]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert [*(place / "temporary").glob("swin-dense-serve-*")] == []  # the folder for uploads goes with the page


def kept(place: Path) -> list[Path]:
    """What visitors have left on disk; gradio makes an empty file beside each upload."""
    return [path for path in (place / "temporary").rglob("*") if path.is_file() and path.stat().st_size]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as run:
        opened = run.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_a_visitor_sees_what_is_found_takes_it_along_and_leaves_nothing(
    task: str, place: Path, server: str, browser: Any
) -> None:
    page = browser.new_page(viewport={"width": 1100, "height": 1000})
    wrong: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server)
    good, notes = (next(place.glob(f"{stem}.*")) for stem in ("good", "notes"))
    page.set_input_files("input[type=file]", good)
    picture = page.get_by_alt_text("what was found")
    picture.wait_for(timeout=60_000)
    assert picture.evaluate("one => one.complete && one.naturalWidth") > 0
    assert kept(place) == []
    rows = rows_of(page)
    slider = page.get_by_role("slider")
    if task == "detection":
        assert all(row["score"] >= 0.3 for row in rows)
        few = len(rows)
        slider.focus()
        slider.press("End")
        page.get_by_text("(0 rows)").wait_for()
        slider.press("Home")
        page.get_by_text("(0 rows)").wait_for(state="detached")
        rows = rows_of(page)
        assert len(rows) >= few
    else:
        assert slider.count() == 0  # without scores of objects there is nothing to move
    assert {key for row in rows for key in row} == RECIPES[task][1]
    assert {row["category"] for row in rows} <= {"circle", "<b>square"}
    page.screenshot(path=str(place / "page.png"), full_page=True)
    page.get_by_label("Remove").or_(page.get_by_label("Clear")).first.click()
    picture.wait_for(state="detached")
    page.set_input_files("input[type=file]", notes)
    page.get_by_role("alert").filter(has_text=notes.name).wait_for()
    assert kept(place) == [] and wrong == []
    assert [url for url in asked if not url.startswith((server, "data:", "blob:"))] == []
    page.close()


def rows_of(page: Any) -> list[dict[str, Any]]:
    with page.expect_download() as download:
        page.get_by_text("Download JSON").click()
    rows: list[dict[str, Any]] = json.loads(Path(download.value.path()).read_text("utf-8"))
    return rows


def test_an_upload_beyond_the_limit_is_refused_and_leaves_nothing(place: Path, server: str) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        + bytes(2**21)
        + b"\r\n--x--\r\n"
    )
    request = urllib.request.Request(
        f"{server}/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(request, timeout=30)
    time.sleep(0.5)
    assert kept(place) == []
