"""Runs a check of a file beside its two images."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image

from helpers.coco_files import HEIGHT, WIDTH
from swin_dense.coco.check import CheckReport, check_coco


@pytest.fixture
def check(tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "1.png")
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "2.png")

    def run(content: Any, **options: Any) -> CheckReport:
        (tmp_path / "instances.json").write_text(json.dumps(content))
        return check_coco(tmp_path / "instances.json", tmp_path, **options)

    return run
