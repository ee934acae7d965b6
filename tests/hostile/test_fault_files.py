"""The hostile inputs that failed once, each handed to the reader of its command within the bounds of the fuzzer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile.pool import Worker

CASES = {
    # file: its kind, what it is called there, how it ends
    "thin_30000x1.png": ("image", ("a.png",), "answer"),
    "jpeg_40000x20000_exif6.jpg": ("image", ("a.jpg",), "refused"),
    "tiff_timeout.tif": ("image", ("a.tif",), "refused"),
    "label_13000x13000.png": ("labels", ("gt/a.png", "predictions/a.png"), "answer"),
    "zip64_size_2e63.zip": ("image-zip", ("images.zip",), "refused"),
    "pickle_0.pth": ("weights", ("a.pth",), "refused"),
    "pickle_AssertionError.pth": ("weights", ("a.pth",), "refused"),
    "pickle_AttributeError.pth": ("weights", ("a.pth",), "refused"),
    "ckpt_digits.pth": ("weights", ("a.pth",), "refused"),
    "surrogate_file_name.json": ("coco", ("train.json",), "refused"),
    "gt_size.json": ("coco", ("train.json",), "refused"),
    "roi_bigint.json": ("boxes", ("boxes.json",), "refused"),
    "roi_intname.json": ("boxes", ("boxes.json",), "refused"),
    "classes_many.txt": ("classes", ("classes.txt",), "answer"),
}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as started:
        yield started


@pytest.mark.parametrize("name", CASES)
def test_hostile_files_end_in_a_clear_error_or_the_right_answer(
    name: str, shared_faults: Path, worker: Worker, tmp_path: Path
) -> None:
    kind, places, expected = CASES[name]
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shared_faults / "20-hostile" / name, tmp_path / place)
    if kind == "coco":
        (tmp_path / "images").mkdir(exist_ok=True)
    ended = worker.run(kind, files=tmp_path)
    assert ended.outcome == expected, ended.message


def test_every_hostile_file_is_tried(shared_faults: Path) -> None:
    assert {path.name for path in (shared_faults / "20-hostile").iterdir()} == CASES.keys()
