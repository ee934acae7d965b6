"""With both splits, checking asks what training asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from helpers.coco_files import HEIGHT, WIDTH, annotation, document
from swin_dense.coco.check import check_splits


def test_both_splits_are_asked_what_training_asks(tmp_path):
    def split(name: str, **other: Any) -> tuple[Path, Path]:
        (tmp_path / name).mkdir(exist_ok=True)
        for number in (1, 2):
            Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / name / f"{number}.png")
        (tmp_path / f"{name}.json").write_text(json.dumps(document(**other)))
        return tmp_path / f"{name}.json", tmp_path / name

    def kinds(**other: Any) -> tuple[set[str], set[str]]:
        reports = check_splits(**{"masks": True, "keep_empty": False, "min_side": 32, **other})
        found = ({one.kind for one in reports[name].problems if one.severity == "error"} for name in ("train", "val"))
        return tuple(found)

    train, val = split("train"), split("val")
    assert kinds(train=train, val=val) == (set(), set())
    assert kinds(train=train, val=val, min_side=101) == ({"nothing-to-train-on"}, set())
    swapped = [{"id": 8, "name": "cat"}, {"id": 3, "name": "dog"}]
    assert kinds(train=train, val=split("val", categories=swapped)) == ({"different-categories"}, set())
    fewer = [{"id": 3, "name": "cat"}]
    assert kinds(train=train, val=split("val", categories=fewer)) == ({"different-categories"}, set())
    val = split("val")
    boxes = [annotation(id=1, segmentation=None), annotation(id=2)]
    assert kinds(train=split("train", annotations=boxes), val=val) == ({"no-outline"}, set())
    assert kinds(train=train, val=val, masks=False) == (set(), set())
    assert kinds(train=split("train", annotations=[]), val=val) == ({"nothing-to-train-on"}, set())
