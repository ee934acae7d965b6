"""Checking a segmentation data set: the class histogram, and everything that is wrong, in one report."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swin_dense.data.shapes import write_shapes
from swin_dense.label_maps.check import SegmentationReport, check_ade, check_segmentation

HEIGHT, WIDTH = 6, 8
NAMES = ("wall", "sky", "tree")


def label_map(*values: int, dtype: Any = np.uint8) -> np.ndarray:
    """(HEIGHT, WIDTH) labels: one column of each value, the last one to the end."""
    columns = [*values, *[values[-1]] * WIDTH][:WIDTH]
    return np.tile(np.array(columns, dtype), (HEIGHT, 1))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sound data set of two training images and one for validation."""
    for folder in ("images/training", "images/validation", "annotations/training", "annotations/validation"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("training/a", "training/b", "validation/c"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"images/{name}.jpg")
        write(tmp_path, name, label_map(0, 1, 2, 3))
    (tmp_path / "objectInfo150.txt").write_text("\n".join(NAMES))
    return tmp_path


def write(root: Path, name: str, labels: np.ndarray) -> None:
    Image.fromarray(labels).save(root / f"annotations/{name}.png")


def kinds(report: SegmentationReport) -> list[tuple[str, str]]:
    """Kind and file name of every problem."""
    return [(problem.kind, Path(problem.file).name) for problem in report.problems]


def test_a_sound_data_set_has_a_histogram_and_no_problems(root):
    report = check_ade(root)
    assert report.ok and report.problems == () and report.class_names == NAMES
    rows = [
        (row.label, row.class_name, row.ignored, row.pixels, row.images) for row in report.splits["training"].histogram
    ]
    assert rows == [
        (0, None, True, 12, 2),
        (1, "wall", False, 12, 2),
        (2, "sky", False, 12, 2),
        (3, "tree", False, 60, 2),
    ]
    record = json.loads(json.dumps(report.to_dict()))
    assert record["ok"] and record["counts"] == {"classes": 3, "errors": 0, "warnings": 0}
    split = record["splits"]["validation"]
    assert (split["pairs"], split["pixels"], split["ignored_pixels"]) == (1, 48, 6)
    assert split["histogram"][1] == {"label": 1, "class_name": "wall", "ignored": False, "pixels": 6, "images": 1}


def test_everything_that_is_wrong_is_found_at_once(root):
    write(root, "training/a", label_map(0, 1, 2, 3, 77))
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "annotations/training/b.png")
    write(root, "training/alone", label_map(0, 1))
    Image.new("RGB", (3, 3)).save(root / "images/training/lonely.png")
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(root / "images/validation/c.jpg")
    write(root, "validation/d", label_map(0))
    (root / "images/validation/d.jpg").write_bytes(b"no image")
    report = check_ade(root)
    assert not report.ok
    assert kinds(report) == [
        ("missing-label-map", "lonely.png"),
        ("missing-image", "alone.png"),
        ("label-range", "a.png"),
        ("label-format", "b.png"),
        ("image-size", "c.jpg"),
        ("empty-label-map", "d.png"),
        ("unreadable-image", "d.jpg"),
        ("mostly-ignored", "validation"),
    ]
    assert "labels 77 (24 pixels) are no class: files hold 1..3" in str(report.problems[2])
    assert [row.label for row in report.splits["training"].histogram if row.class_name is None] == [0, 77]
    assert report.to_dict()["counts"] == {"classes": 3, "errors": 6, "warnings": 2}


def converted(labels: np.ndarray) -> np.ndarray:
    """What mmsegmentation calls reduce_zero_label, done to the files."""
    return (labels - 1).astype(np.uint8)  # 0 becomes 255


def test_label_maps_that_are_converted_already_are_found(root):
    names = ("training/a", "training/b", "validation/c")
    for times in (1, 2):
        for name in names:
            labels = np.asarray(Image.open(root / f"annotations/{name}.png"))
            write(root, name, converted(np.where(labels == 255, 0, labels)) if times == 2 else converted(labels))
        report = check_ade(root)
        (found,) = (problem for problem in report.problems if problem.kind == "converted-twice")
        assert "unless the last class, tree, is just rare" in found.message, times
        assert "look where label 1 lies: if that is no wall, use label_shift=0" in found.fix, times
    for name in names:
        write(root, name, converted(label_map(0, 1, 2, 3)))
    assert check_ade(root, label_shift=0).problems == ()


def test_real_ade20k_is_sound_and_once_converted_no_longer(shared_data, tmp_path):
    root = shared_data / "ade20k_tiny"
    report = check_ade(root)
    assert report.ok and {problem.kind for problem in report.problems} == {"unseen-classes"}
    training = report.splits["training"]
    rows = {row.label: row for row in training.histogram}
    assert training.pairs == 3 and len(rows) == 151 and rows[7].class_name == "road"
    raw = np.concatenate([np.asarray(Image.open(path)).ravel() for path in root.glob("annotations/training/*.png")])
    assert {label: row.pixels for label, row in rows.items()} == {
        label: int((raw == label).sum()) for label in range(151)
    }
    for split in ("training", "validation"):
        (tmp_path / split).mkdir()
        for path in root.glob(f"annotations/{split}/*.png"):
            Image.fromarray(converted(np.asarray(Image.open(path)))).save(tmp_path / split / path.name)
    splits = {split: (root / "images" / split, tmp_path / split) for split in ("training", "validation")}
    twice = check_segmentation(splits, root / "objectInfo150.txt")
    assert not twice.ok and [kind for kind, _ in kinds(twice) if kind != "unseen-classes"] == ["converted-twice"]


def test_background_and_void_that_are_both_ignored_are_no_conversion(root):
    write(root, "training/a", label_map(0, 1, 2, 3, 255))
    assert check_ade(root).problems == ()


def test_a_last_class_that_is_rare_beside_background_and_void_is_no_error(root):
    for name in ("training/a", "training/b", "validation/c"):
        write(root, name, label_map(0, 1, 2, 255))
    report = check_ade(root)
    assert report.ok and "converted-twice" in dict(kinds(report))


def test_labels_without_a_shift_and_nothing_to_ignore_are_suspicious(root):
    for name in ("training/a", "training/b", "validation/c"):
        write(root, name, label_map(1, 2, 3))
    report = check_ade(root)
    assert report.ok and [kind for kind, _ in kinds(report)] == ["nothing-ignored"]


def test_palette_files_are_counted_with_a_warning_and_unseen_classes_are_named(root):
    for name in ("a", "b"):
        image = Image.fromarray(label_map(0, 1, 3))
        image.putpalette(list(range(256)) * 3)
        image.save(root / f"annotations/training/{name}.png")
    report = check_ade(root)
    assert report.ok and kinds(report) == [("palette", "training"), ("unseen-classes", "training")]
    assert report.problems[0].message.startswith("2 of 2 label files have a palette")
    assert report.problems[1].message.startswith("1 of 3 classes have no pixel in 2 label maps: sky")


def test_sixteen_bit_labels_beyond_255_are_counted(root):
    names = [f"class {number}" for number in range(400)]
    (root / "objectInfo150.txt").write_text("\n".join(names))
    for name in ("training/a", "training/b", "validation/c"):
        write(root, name, label_map(0, 400, dtype=np.uint16))
    assert not check_ade(root).ok  # 255 is a class here
    report = check_ade(root, ignore_index=65535)
    assert report.ok and report.splits["validation"].histogram[400].pixels == 42


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda root: (root / "objectInfo150.txt").unlink(), "layout"),
        (lambda root: (root / "objectInfo150.txt").write_text(""), "class-list"),
        (lambda root: (root / "images/training").rename(root / "elsewhere"), "folder"),
        (lambda root: (root / "annotations").rename(root / "labels"), "layout"),
    ],
)
def test_what_keeps_a_check_from_starting_is_a_problem_too(root, spoil, kind):
    spoil(root)
    report = check_ade(root)
    assert not report.ok and kind in dict(kinds(report))
    json.dumps(report.to_dict())


def test_the_embedded_shapes_are_sound_also_straight_from_a_zip_file_with_progress(tmp_path):
    root = write_shapes(tmp_path / "shapes", train=3, val=2, size=32) / "ade20k"
    with zipfile.ZipFile(tmp_path / "ade.zip", "w") as file:
        for path in sorted(root.rglob("*.*")):
            file.write(path, f"ADEChallengeData2016/{path.relative_to(root).as_posix()}")
    totals = []

    def progress(items: Any, total: int) -> Any:
        totals.append(total)
        return items

    reports = [check_ade(place, progress=progress) for place in (root, tmp_path / "ade.zip")]
    assert totals == [3, 2] * 2 and all(report.ok for report in reports)
    ours, zipped = ({name: split.histogram for name, split in report.splits.items()} for report in reports)
    assert ours == zipped


def binary_masks(root: Path, background: int, target: int) -> None:
    """Masks of an object on a quarter of the pixels."""
    for name in ("training/a", "training/b", "validation/c"):
        write(root, name, label_map(target, target, background))
    (root / "objectInfo150.txt").write_text("background\ntarget")


def found(report: SegmentationReport) -> list[tuple[str, str, str]]:
    return [(one.kind, one.message, one.fix) for one in report.problems if Path(one.file).name == "training"]


def test_masks_of_0_and_255_are_explained_by_the_number_in_the_files(root):
    binary_masks(root, 0, 255)
    report = check_ade(root, label_shift=0)
    assert found(report) == [
        (
            "unseen-classes",
            "1 of 2 classes have no pixel in 2 label maps: target; label 255 is ignored on 25.0% of the pixels, because"
            " it is ignore_index",
            "if label 255 stands for a class, store the number of that class instead (0..1); else check that the class"
            " list belongs to the label maps",
        )
    ]
    binary_masks(root, 255, 0)
    assert [kind for kind, *_ in found(check_ade(root, label_shift=0))] == ["unseen-classes", "mostly-ignored"]


def test_masks_of_0_and_1_that_a_shift_moves_are_explained_by_the_shift(root):
    binary_masks(root, 0, 1)
    kinds_, messages, _ = zip(*found(check_ade(root)), strict=True)
    assert kinds_ == ("unseen-classes", "mostly-ignored")
    assert "target; label 0 is ignored on 75.0% of the pixels, because label_shift is -1" in messages[0]
    assert messages[1].startswith("75.0% of the pixels of 2 label maps have no class: label 0 is ignored on 75.0%")


def test_label_maps_of_which_no_pixel_has_a_class_are_an_error(root):
    binary_masks(root, 0, 255)
    (root / "objectInfo150.txt").write_text("target")
    report = check_ade(root)
    assert not report.ok
    assert ("no-classes", "training") in kinds(report) and ("unseen-classes", "training") not in kinds(report)
    assert "no pixel of 2 label maps has a class: label 0 is ignored on 75.0%" in found(report)[-1][1]


@pytest.mark.parametrize(("label_shift", "ignore_index"), [(-(10**12), 255), (0, 10**30), (5, 255)])
def test_numbers_that_no_label_map_can_meet_are_a_problem(root, label_shift, ignore_index):
    report = check_ade(root, label_shift=label_shift, ignore_index=ignore_index)
    assert [problem.kind for problem in report.problems] == ["label-conversion"]
