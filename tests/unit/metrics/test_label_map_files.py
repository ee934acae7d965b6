"""Folders of label PNGs: which file is scored against which, which label is which class, and faults by their file."""

import json
import math
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from swin_dense.errors import ConfigError, DataError
from swin_dense.label_maps import files
from swin_dense.label_maps.files import label_image
from swin_dense.metrics import evaluate_label_map_files


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    label_image(np.array(rows)).save(path)


@pytest.fixture
def folders(tmp_path):
    """Two images of an ADE-like data set with three classes 1..3; one of six pixels has no class, one is wrong."""
    truth, found = tmp_path / "data" / "annotations" / "validation", tmp_path / "found"
    write(truth / "a.png", [[0, 1, 1]])
    write(found / "a.png", [[2, 1, 1]])
    write(truth / "sub" / "a.png", [[2], [2], [3]])
    write(found / "sub" / "a.png", [[2], [1], [3]])
    return truth, found


def test_files_of_one_relative_name_are_scored_against_each_other(folders):
    scores = evaluate_label_map_files(*folders, label_shift=-1)
    assert scores["aAcc"] == pytest.approx(80)
    assert scores["mIoU"] == pytest.approx((100 * 2 / 3 + 50 + 100) / 3)
    assert list(scores["per_class"]) == ["1", "2", "3"]  # without a class list they go by their stored labels


def test_the_class_list_beside_annotations_is_found_and_another_may_be_given(folders, tmp_path):
    (tmp_path / "data" / "objectInfo150.txt").write_text("Idx\tName\n1\tsky\n2\troad\n3\ttree\n4\tship\n")
    scores = evaluate_label_map_files(*folders)
    assert list(scores["per_class"]) == ["sky", "road", "tree", "ship"]
    assert scores["per_class"]["road"]["IoU"] == pytest.approx(50)
    assert math.isnan(scores["per_class"]["ship"]["IoU"])
    (tmp_path / "names.txt").write_text("A\nB\nC\n")
    scores = evaluate_label_map_files(*folders, label_shift=-1, classes=tmp_path / "names.txt")
    assert list(scores["per_class"]) == ["A", "B", "C"]


@pytest.fixture
def predicted(folders, tmp_path):
    """What `predict` fills a folder with: the labels, and which classes occur in each."""
    (tmp_path / "predicted").mkdir()
    folders[1].rename(tmp_path / "predicted" / "labels")
    rows = [
        {"labels": "labels/a.png", "classes": {"sky": 2 / 3, "road": 1 / 3}},
        {"labels": "labels/sub/a.png", "classes": {"sky": 1 / 3, "road": 1 / 3, "tree": 1 / 3}},
    ]
    (tmp_path / "predicted" / "predictions.json").write_text(json.dumps(rows))
    return folders[0], tmp_path / "predicted"


@pytest.mark.parametrize(
    ("order", "clash"),
    [("sky road tree", None), ("road sky tree", None), ("tree road sky", "a.png: its numbers are those of road, tree")],
)
def test_numbers_that_mean_other_classes_in_the_list_are_refused(predicted, tmp_path, order, clash):
    """Only where a map shows it: two classes that occur together everywhere may still have changed places."""
    (tmp_path / "names.txt").write_text("\n".join(order.split()))
    options = {"label_shift": -1, "classes": tmp_path / "names.txt"}
    if clash is None:
        assert evaluate_label_map_files(*predicted, **options)["aAcc"] == pytest.approx(80)
    else:
        with pytest.raises(DataError, match=clash):
            evaluate_label_map_files(*predicted, **options)


@pytest.mark.parametrize(
    "content", ["{}", "[3]", '[{"labels": 3, "classes": []}]', '[{"labels": "labels/b.png", "classes": {"A": 1}}]']
)
def test_other_names_and_rows_that_say_nothing_stand_in_no_way(predicted, tmp_path, content):
    (tmp_path / "names.txt").write_text("A\nB\nC\n")
    options = {"label_shift": -1, "classes": tmp_path / "names.txt"}
    assert evaluate_label_map_files(*predicted, **options)["aAcc"] == pytest.approx(80)
    (tmp_path / "predicted" / "predictions.json").write_text(content)
    assert evaluate_label_map_files(*predicted, **options)["aAcc"] == pytest.approx(80)


def test_a_class_list_between_commas_is_found_too(folders, tmp_path):
    (tmp_path / "data" / "objectInfo150.csv").write_text("Idx,Name\n1,sky\n2,road\n3,tree\n")
    assert list(evaluate_label_map_files(*folders, label_shift=-1)["per_class"]) == ["sky", "road", "tree"]


def test_labels_that_could_begin_at_0_or_at_1_are_asked_about(folders, tmp_path):
    (tmp_path / "names.txt").write_text("A\nB\nC\n")
    for classes in (None, tmp_path / "names.txt"):
        with pytest.raises(DataError, match=r"which label is the first class\? Pass label_shift=0"):
            evaluate_label_map_files(*folders, classes=classes)


def test_hidden_files_are_none_and_capital_suffixes_are(folders):
    expected = evaluate_label_map_files(*folders, label_shift=-1)
    truth, found = folders
    (truth / "a.png").rename(truth / "a.PNG")
    (found / "._a.png").write_bytes(b"what macOS leaves")
    (found / ".cache").mkdir()
    write(found / ".cache" / "b.png", [[1]])
    assert evaluate_label_map_files(*folders, label_shift=-1) == expected
    write(truth / "a.png", [[0, 1, 1]])
    with pytest.raises(DataError, match=r"a\.PNG: .*a\.png has the same name; remove one of them"):
        evaluate_label_map_files(*folders, label_shift=-1)


def test_predictions_may_be_stored_otherwise_than_the_ground_truth(folders):
    expected = evaluate_label_map_files(*folders, label_shift=-1)
    for file, rows in (("a.png", [[1, 0, 0]]), ("sub/a.png", [[1], [0], [2]])):
        write(folders[1] / file, rows)
    assert evaluate_label_map_files(*folders, label_shift=-1, prediction_shift=0) == expected
    with pytest.raises(
        DataError, match=r"found/a\.png: label 0 at row 0, column 1 is none of .* 1\.\..*prediction_shift"
    ):
        evaluate_label_map_files(*folders, label_shift=-1)


def test_without_a_shift_0_is_a_class_and_255_is_not(tmp_path):
    write(tmp_path / "truth" / "a.png", [[0, 1, 255]])
    write(tmp_path / "found" / "a.png", [[0, 0, 1]])
    scores = evaluate_label_map_files(tmp_path / "truth", tmp_path / "found", label_shift=0)
    assert scores["aAcc"] == 50
    assert scores["per_class"] == {"0": {"IoU": 50, "Acc": 100}, "1": {"IoU": 0, "Acc": 0}}


def test_hundreds_of_classes_are_stored_with_16_bits(tmp_path):
    write(tmp_path / "truth" / "a.png", [[1, 400, 255, 0]])
    write(tmp_path / "found" / "a.png", [[1, 400, 400, 1]])
    folders = tmp_path / "truth", tmp_path / "found"
    scores = evaluate_label_map_files(*folders, label_shift=-1, ignore_index=65535)
    assert len(scores["per_class"]) == 400
    assert scores["aAcc"] == pytest.approx(100 * 2 / 3)
    with pytest.raises(ConfigError, match="ignore_index 255 is a class, or the label that files store for one"):
        evaluate_label_map_files(*folders, label_shift=-1)


def test_missing_and_surplus_files_are_listed(folders):
    write(folders[1] / "b.png", [[1]])
    (folders[1] / "sub" / "a.png").unlink()
    with pytest.raises(DataError) as error:
        evaluate_label_map_files(*folders, label_shift=-1)
    assert error.value.problems == (
        f"{folders[0] / 'sub' / 'a.png'}: has no prediction",
        f"{folders[1] / 'b.png'}: has no ground truth",
    )


def test_every_other_fault_names_its_file(folders, tmp_path):
    truth, found = folders
    names = tmp_path / "names.txt"
    names.write_text("A\nB\n")
    with pytest.raises(DataError, match=r"annotations/validation/sub/a\.png: label 3 at row 2, column 0 .* 2 classes"):
        evaluate_label_map_files(truth, found, label_shift=-1, classes=names)
    write(found / "a.png", [[1, 1]])
    with pytest.raises(DataError, match=r"found/a\.png: is 2 wide and 1 high, .*/a\.png 3 wide and 1 high"):
        evaluate_label_map_files(truth, found, label_shift=-1)
    Image.new("RGB", (3, 1)).save(found / "a.png")
    with pytest.raises(DataError, match=r"found/a\.png: its pixels are colours"):
        evaluate_label_map_files(truth, found, label_shift=-1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no label PNG"):
        evaluate_label_map_files(truth, tmp_path / "empty")
    with pytest.raises(DataError, match="absent: no such folder"):
        evaluate_label_map_files(tmp_path / "absent", found)


def test_a_ground_truth_without_any_class_is_refused(tmp_path):
    write(tmp_path / "truth" / "a.png", [[0, 0]])
    write(tmp_path / "found" / "a.png", [[1, 1]])
    with pytest.raises(DataError, match="no pixel of the ground truth has a class"):
        evaluate_label_map_files(tmp_path / "truth", tmp_path / "found", label_shift=-1)


def test_a_zip_file_is_scored_like_the_folder_that_it_holds(folders, tmp_path):
    expected = evaluate_label_map_files(*folders, label_shift=-1)
    packed = [tmp_path / "truth.zip", tmp_path / "found.zip"]
    for folder, path in zip(folders, packed, strict=True):
        with zipfile.ZipFile(path, "w") as file:
            for name in ("a.png", "sub/a.png"):
                file.write(folder / name, name)
    assert evaluate_label_map_files(*packed, label_shift=-1) == expected


def test_linked_folders_are_scored_and_broken_links_are_named(folders, tmp_path):
    expected = evaluate_label_map_files(*folders, label_shift=-1)
    for folder in folders:
        store = tmp_path / f"store_{folder.name}"
        (folder / "sub").rename(store)
        (folder / "sub").symlink_to(store)
    assert evaluate_label_map_files(*folders, label_shift=-1) == expected
    (folders[0] / "b.png").symlink_to(tmp_path / "absent.png")
    with pytest.raises(DataError, match=r"b\.png"):
        evaluate_label_map_files(*folders, label_shift=-1)


@pytest.mark.parametrize(
    "options",
    [
        {"label_shift": -(10**12)},
        {"label_shift": 10**30},
        {"label_shift": 0, "prediction_shift": -(10**9)},
        {"label_shift": -1, "ignore_index": 10**30},
        {"label_shift": -1, "ignore_index": 65536},
    ],
)
def test_numbers_that_no_label_can_meet_are_refused(folders, options):
    with pytest.raises(ConfigError, match="label PNG holds 0..65535|label_shift must be|ignore_index must be"):
        evaluate_label_map_files(*folders, **options)


def test_more_classes_than_a_confusion_matrix_is_made_for_are_refused(tmp_path):
    write(tmp_path / "truth" / "a.png", [[1, 5000]])
    with pytest.raises(DataError, match="5001 classes are more than the 4096 that can be scored"):
        evaluate_label_map_files(tmp_path / "truth", tmp_path / "truth", label_shift=0)


def test_a_map_is_counted_in_parts_and_faults_are_found_in_each(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_PIXELS_AT_ONCE", 100)
    random = np.random.default_rng(0)
    truth, found = random.integers(0, 5, (2, 31, 37))
    write(tmp_path / "truth" / "a.png", truth)
    write(tmp_path / "found" / "a.png", found)
    scores = evaluate_label_map_files(tmp_path / "truth", tmp_path / "found", label_shift=0)
    assert scores["aAcc"] == pytest.approx(100 * (truth == found).mean())
    found[29, 30] = 200
    write(tmp_path / "found" / "a.png", found)
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    with pytest.raises(DataError, match="label 200 at row 29, column 30 is none of the 5 classes"):
        evaluate_label_map_files(tmp_path / "truth", tmp_path / "found", label_shift=0, classes=tmp_path / "names.txt")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from Linux's /proc")
def test_a_small_file_of_a_huge_map_takes_little_more_memory_than_its_pixels(tmp_path):
    for folder in ("truth", "found"):
        (tmp_path / folder).mkdir()
        Image.new("L", (6000, 6000), 1).save(tmp_path / folder / "a.png")
    script = (
        "import sys; from pathlib import Path; from swin_dense.metrics import evaluate_label_map_files as evaluate\n"
        "def peak(): return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) / 1024\n"
        "before = peak(); evaluate(Path(sys.argv[1]), Path(sys.argv[2]), label_shift=0); print(peak() - before)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "truth"), str(tmp_path / "found")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(answer.stdout) < 3 * 36 + 150  # megabytes
