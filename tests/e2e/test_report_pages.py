"""Pages in a browser: nothing fails, nothing is fetched, every picture loads, tables sort, in light and dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.commands import command
from swin_dense.data.shapes import write_shapes

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

LOOK = """<script>
addEventListener("load", () => {
  const table = [...document.querySelectorAll("table")].find(one => one.tHead.textContent.includes("objects"));
  const button = table.querySelectorAll("th.number button")[0];
  const column = [...table.querySelectorAll("th")].indexOf(button.parentElement);
  const read = () => [...table.tBodies[0].rows].map(row => Number(row.children[column].dataset.value));
  button.click(); const falling = read(); button.click(); const rising = read();
  const pictures = [...document.images].map(one => one.complete && one.naturalWidth > 0);
  const width = document.documentElement.scrollWidth - innerWidth;
  document.title = "FOUND" + JSON.stringify({falling, rising, pictures, width});
});
</script></body>"""
"""What a page does when it is looked at; headless browsers print the page as it is then."""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("there is no Chromium on this machine to look at pages with")
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about predictions in files, which are some of the annotations, and one about data with mistakes."""
    folder = tmp_path_factory.mktemp("pages")
    root = write_shapes(folder / "shapes", train=8, val=8, size=96)
    truth = root / "annotations/instances_val.json"
    content = json.loads(truth.read_text())
    rows = [
        {
            "image_id": one["image_id"],
            "category_id": one["category_id"],
            "bbox": one["bbox"],
            "score": 0.9 - 0.01 * place,
        }
        for place, one in enumerate(content["annotations"])
        if place % 3
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    words = ["--gt", str(truth), "--predictions", str(folder / "rows.json"), "--images", str(root / "images/val")]
    assert command("report", *words, "--output", str(folder / "files.html")) == 0
    again = max(one["id"] for one in content["annotations"]) + 1
    content["annotations"].append(content["annotations"][0] | {"id": again})
    truth.write_text(json.dumps(content))
    shutil.copy(next((root / "images/val").iterdir()), root / "images/train" / "copied.jpg")
    train = root / "annotations/instances_train.json"
    learnt = json.loads(train.read_text())
    learnt["images"].append(learnt["images"][0] | {"id": 10_000, "file_name": "copied.jpg"})
    train.write_text(json.dumps(learnt))
    words = ["mask-rcnn_swin-nano_shapes", "--data", str(root), "--report", str(folder / "data.html")]
    assert command("check-data", *words) == 0
    return folder


def test_what_is_suspicious_about_data_is_said(pages: Path) -> None:
    page = (pages / "data.html").read_text()
    for said in ("repeated-box", "near-duplicates", "copied.jpg (train)", "train: objects", "val: objects"):
        assert said in page


@pytest.mark.parametrize("name", ["files.html", "data.html"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_page_works_in_a_browser(browser: str, pages: Path, tmp_path: Path, name: str, dark: bool) -> None:
    page = tmp_path / name
    page.write_text((pages / name).read_text().replace("</body>", LOOK))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}/user",
    ]
    options += ["--virtual-time-budget=5000", *(["--blink-settings=preferredColorScheme=0"] if dark else [])]
    seen = subprocess.run(
        [browser, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    match = re.search(r"<title>FOUND(.*?)</title>", seen.stdout)
    assert match is not None, seen.stderr[-2000:]
    found = json.loads(match[1])
    assert "CONSOLE" not in seen.stderr
    assert len(found["pictures"]) > 8 and all(found["pictures"])
    assert found["falling"] == sorted(found["falling"], reverse=True) and len(set(found["falling"])) > 1
    assert found["rising"] == sorted(found["rising"])
    assert found["width"] <= 0
