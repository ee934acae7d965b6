"""Pages about data sets that cannot be read."""

from __future__ import annotations

from pathlib import Path

from swin_dense.coco.check import check_coco
from swin_dense.report.dataset import write_data_report


def test_a_page_says_what_keeps_an_annotation_file_from_being_read(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"images": [', encoding="utf-8")
    write_data_report({"coco": check_coco(broken, None)}, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "not a JSON file" in page and "nothing looks wrong" not in page
