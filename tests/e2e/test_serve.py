"""`swin-dense serve` in a real browser: drop a picture, move the threshold, download the JSON; nothing stays."""

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

from swin_dense.config import load_config
from swin_dense.data.shapes import write_shapes
from swin_dense.models import build
from swin_dense.weights import save_weights

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RECIPE = "mask-rcnn_swin-nano_shapes"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Weights of a model, a picture, and a folder for temporary files."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'swin-dense[serve]'")
    write_shapes(tmp_path / "shapes", train=1, val=1)
    labels = {"class_names": ["circle", "<b>square"], "category_ids": [1, 2]}
    metadata = {name: json.dumps(value) for name, value in labels.items()}
    save_weights(build(load_config(RECIPE), 2).network, tmp_path / "weights.safetensors", metadata=metadata)
    (tmp_path / "temporary").mkdir()
    return tmp_path


@pytest.fixture
def server(place: Path) -> Iterator[str]:
    """The address of the page; stopped as a service manager does it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [RECIPE, "--weights", "weights.safetensors", "--port", str(port), "--max-mib", "1", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "swin_dense.cli", "serve", *words],
        cwd=place,
        env={**os.environ, "TMPDIR": str(place / "temporary"), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("http://"):
            break
    else:
        pytest.fail("the page did not start")
    yield line.split()[0]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert [*(place / "temporary").glob("swin-dense-serve-*")] == []  # the folder for uploads goes with the page


def kept(place: Path) -> list[Path]:
    """What visitors have left on disk; gradio makes an empty file beside each upload."""
    return [path for path in (place / "temporary").rglob("*") if path.is_file() and path.stat().st_size]


def test_a_visitor_sees_boxes_moves_the_threshold_and_leaves_nothing(place: Path, server: str) -> None:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 1000})
        wrong: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server)
        page.set_input_files("input[type=file]", next((place / "shapes/images/val").iterdir()))
        picture = page.get_by_alt_text("what was found")
        picture.wait_for(timeout=60_000)
        assert kept(place) == []
        few = rows_of(page)
        assert all(row["score"] >= 0.3 for row in few)
        slider = page.get_by_role("slider")
        slider.focus()
        slider.press("End")
        page.get_by_text("(0 rows)").wait_for()
        slider.press("Home")
        page.get_by_text("(0 rows)").wait_for(state="detached")
        many = rows_of(page)
        assert len(many) >= len(few) and set(many[0]) == {"category_id", "category", "bbox", "score", "segmentation"}
        page.screenshot(path=str(place / "page.png"), full_page=True)
        page.get_by_label("Remove").or_(page.get_by_label("Clear")).first.click()
        picture.wait_for(state="detached")
        (place / "notes.png").write_text("no picture")
        page.set_input_files("input[type=file]", place / "notes.png")
        page.get_by_role("alert").filter(has_text="notes.png").wait_for()
        assert kept(place) == [] and wrong == []
        assert [url for url in asked if not url.startswith((server, "data:", "blob:"))] == []
        browser.close()


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
