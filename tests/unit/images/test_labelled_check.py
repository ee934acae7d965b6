"""Every fault of a classification data set is reported at once, with its file and what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swin_dense.images.labelled_check import check_imagenet, check_labelled


def save(path: Path, brightness: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), brightness, dtype=np.uint8)).convert(mode).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, start in (("train", 0), ("val", 100)):
        for place, name in enumerate(("cat", "dog")):
            save(tmp_path / split / name / "a.png", start + 40 * place)
    return tmp_path


def kinds(root: Path, split: str) -> dict[str, str]:
    report = check_imagenet(root)[split]
    return {f"{one.kind} {Path(one.file).relative_to(root / split)}": one.severity for one in report.problems}


def test_a_sound_data_set_is_ready(root: Path) -> None:
    reports = check_imagenet(root)
    assert all(report.ok and not report.problems for report in reports.values())
    assert reports["train"].to_dict()["counts"] == {
        "images": 2,
        "classes": 2,
        "fewest_images_of_a_class": 1,
        "most_images_of_a_class": 1,
    }


def test_all_faults_are_found(root: Path) -> None:
    save(root / "train" / "loose.png", 7)
    (root / "train" / "cow").mkdir()
    (root / "train" / "cat" / "broken.jpg").write_bytes((root / "train" / "cat" / "a.png").read_bytes()[:40])
    save(root / "train" / "dog" / "print.jpg", 9, "CMYK")
    save(root / "train" / "dog" / "copy.png", 40)
    save(root / "train" / "dog" / "other.png", 0)  # the cat's picture
    save(root / "train" / "c at" / "a.png", 90)
    (root / "train" / "dog" / "empty.jpg").touch()
    save(root / "val" / "dot" / "a.png", 200)
    save(root / "val" / "cat" / "leak.png", 0)
    assert kinds(root, "train") == {
        "no-class loose.png": "error",
        "empty-class cow": "error",
        "alike-classes cat": "error",
        "unreadable-image dog/empty.jpg": "error",
        "unreadable-image cat/broken.jpg": "error",
        "cmyk dog/print.jpg": "warning",
        "duplicate dog/copy.png": "warning",
        "two-classes dog/other.png": "error",
    }
    assert kinds(root, "val") == {
        "unknown-class dot": "error",
        "missing-class c at": "warning",
        "missing-class cow": "warning",
        "train-in-val cat/leak.png": "warning",
    }


def test_a_list_names_images_that_are_not_there_and_classes_that_are_none(root: Path) -> None:
    (root / "classes.txt").write_text("cat\ndog\n")
    (root / "val.txt").write_text("cat/a.png 0\ndog/a.png 2\ncat/b.png 1\n")
    places = {"train": (root / "train", None), "val": (root / "val", root / "val.txt")}
    report = check_labelled(places, root / "classes.txt")["val"]
    assert [one.kind for one in report.problems] == ["missing-image", "unknown-class"] and not report.ok


def test_a_split_that_is_not_there_is_one_problem(root: Path) -> None:
    reports = check_labelled({"train": (root / "train", None), "val": (root / "away", None)})
    assert reports["train"].ok and [one.kind for one in reports["val"].problems] == ["folder"]
