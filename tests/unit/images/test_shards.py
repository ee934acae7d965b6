"""Shards of Hugging Face's `datasets` and of WebDataset: any image by its name, classes from the file, faults named."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers.shards import FORMS, Row, table, write_split, write_tar
from swin_dense.errors import DataError
from swin_dense.images.labelled import ClassList, find_classes, open_images, read_labelled
from swin_dense.images.labelled_check import check_imagenet
from swin_dense.images.store import ImageError

CLASSES = ("wild dog", "cat", "never seen")
LABELS = (0, 1, 1, 0, 1, 1, 0, 1)


def content(brightness: int, format_name: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 12, 3), brightness, dtype=np.uint8)).convert(mode).save(buffer, format_name)
    return buffer.getvalue()


ROWS: list[Row] = [(f"photo{n}.png", content(20 * n), label) for n, label in enumerate(LABELS)]


def write(root: Path, form: str, rows: list[Row] = ROWS) -> None:
    for split in ("train", "val"):
        write_split(root, form, split, rows, CLASSES, files=2)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("form", FORMS)
def test_shards_give_images_labels_and_classes(tmp_path: Path, form: str, split: str) -> None:
    write(tmp_path, form)
    if form == "arrow":
        (tmp_path / split / "cache-0.arrow").write_bytes(b"what `datasets` has computed")
    store = open_images(tmp_path / split)
    classes = find_classes([store], [None])
    assert classes.names == (("cat", "wild dog") if form == "webdataset" else CLASSES)
    images = read_labelled(store, None, classes)
    names = [images.names.text(place) for place in range(len(images))]
    shown = [int(store.read(name)[0, 0, 0]) for name in names]
    assert shown == [20 * n for n in range(8)]
    assert [classes.names[label] for label in images.labels] == [CLASSES[label] for label in LABELS]
    assert [name.rpartition("/")[2] for name in names] == [name for name, _, _ in ROWS]


@pytest.mark.parametrize("form", FORMS)
def test_a_check_names_what_is_wrong_with_images_and_classes(tmp_path: Path, form: str) -> None:
    faults = [("q.png", content(1)[:40], 1), ("r.jpg", content(9, "JPEG", "CMYK"), 1), ("s.png", content(20), 0)]
    write_split(tmp_path, form, "train", [*ROWS, *faults], CLASSES, files=2)
    write_split(tmp_path, form, "val", [("again.png", content(20), 1)], CLASSES, files=1)
    reports = check_imagenet(tmp_path)
    found = {(one.kind, one.file.rpartition("/")[2]) for one in reports["train"].problems}
    empty = {("empty-class", "never seen")} if form != "webdataset" else set()
    assert found == {("unreadable-image", "q.png"), ("cmyk", "r.jpg"), ("two-classes", "s.png")} | empty
    assert "train-in-val" in {one.kind for one in reports["val"].problems}


def test_numbers_need_the_names_of_classes_and_words_are_classes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(table(ROWS, None), tmp_path / "data" / "train.parquet")
    store = open_images(tmp_path / "train")
    with pytest.raises(DataError, match="labels are numbers; name a file with one class name per line as data.classes"):
        find_classes([store], [None])
    assert read_labelled(store, None, ClassList(CLASSES, CLASSES)).labels.tolist() == list(LABELS)
    members = [(name, image) for name, image, _ in ROWS] + [(f"photo{n}.json", b'{"label": 1}') for n in range(8)]
    write_tar(tmp_path / "mine-train-0.tar", members)
    (tmp_path / "data" / "train.parquet").unlink()
    assert read_labelled(open_images(tmp_path / "train"), None, ClassList(CLASSES, CLASSES)).labels.tolist() == [1] * 8


def test_samples_without_a_label_or_an_image_are_named(tmp_path: Path) -> None:
    members = [("a.png", b"x"), ("a.cls", b"cat"), ("b.png", b"x"), ("b.json", b'{"caption": "b"}'), ("c.cls", b"dog")]
    write_tar(tmp_path / "train-0.tar", members)
    with pytest.raises(DataError) as error:
        open_images(tmp_path / "train")
    assert str(error.value).splitlines() == [
        f"{tmp_path}: 2 samples of the shards are not an image with a label",
        "  - train-0/b: has no .cls, and no .json with a label",
        "  - train-0/c: has a label and no image",
    ]
    write_tar(tmp_path / "train-0.tar", [("a.png", b"x"), ("a.json", b"[" * 100_000)])
    with pytest.raises(DataError, match="train-0.tar: cannot be read .*a.json is nested too deep"):
        open_images(tmp_path / "train")
    write_tar(tmp_path / "train-0.tar", [("a.png", b"x"), ("a.json", b'{"label": "\\ud800"}')])
    with pytest.raises(DataError, match="train-0.tar: cannot be read .*surrogates not allowed"):
        open_images(tmp_path / "train")


def test_a_sample_of_two_images_is_named_and_one_written_twice_is_the_last(tmp_path: Path) -> None:
    members = [("a.png", content(10)), ("a.cls", b"cat"), ("a.png", content(20))]
    write_tar(tmp_path / "train-0.tar", members)
    store = open_images(tmp_path / "train")
    assert store.names() == ["train-0/a.png"]
    assert int(store.read("train-0/a.png")[0, 0, 0]) == 20
    write_tar(tmp_path / "train-0.tar", [*members, ("a.seg.png", content(30))])
    with pytest.raises(DataError, match="train-0/a: has 2 images, such as a mask; keep the one to learn"):
        open_images(tmp_path / "train")


def test_a_tar_file_of_a_split_that_says_no_classes_is_no_class(tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", [("n01440764/a.png", b"x")])
    with pytest.raises(DataError, match="train: no such folder or zip file of images"):
        open_images(tmp_path / "train")


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_damaged_tables_are_named(tmp_path: Path, form: str) -> None:
    write(tmp_path, form)
    path = sorted(tmp_path.rglob(f"*.{form}"))[0]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=rf"{path.name}: cannot be read as a table .*; download it again"):
        open_images(tmp_path / "train")


def test_tables_without_images_or_labels_say_what_they_have(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    whole = table(ROWS, CLASSES)
    for changed, message in (
        (whole.drop_columns(["image"]), r"no images in its columns label \(int64\)"),
        (whole.set_column(0, "image", [[name for name, _, _ in ROWS]]), r"no images in its columns image \(string\)"),
        (whole.drop_columns(["label"]), "its column 'label' is missing"),
        (whole.set_column(1, "label", [[1.5] * 8]), "its column 'label' is of type double"),
        (table([*ROWS, ("test.png", ROWS[0][1], -1)], CLASSES), "1 rows have no class of the 3, the first is row 8"),
        (table(ROWS, ("cat", "cat", "dog")), "two classes of its column 'label' have one name"),
        (table(ROWS, ("cat", "\ud800", "dog")), r"a class of its column 'label' is called '\\ud800'"),
        (table(ROWS, ("cat", " ", "dog")), "a class of its column 'label' is called ' '; give it a name"),
    ):
        pq.write_table(changed, path)
        with pytest.raises(DataError, match=f"train.parquet: .*{message}"):
            find_classes([open_images(tmp_path / "train")], [None])
    pq.write_table(table([("elsewhere.png", None, 1), ("empty.png", b"", 1)], CLASSES), path)
    store = open_images(tmp_path / "train")
    for name, message in zip(store.names(), ("its bytes are not in the table", "not an image"), strict=True):
        with pytest.raises(ImageError, match=message):
            store.read(name)
    for name in ("train.parquet/000002/empty.png", "train.parquet/x/empty.png", "other.parquet/000000/empty.png"):
        with pytest.raises(ImageError):
            store.read(name)


def test_tables_of_a_split_must_agree(tmp_path: Path) -> None:
    write(tmp_path, "parquet")
    pq.write_table(table(ROWS, CLASSES[::-1]), tmp_path / "data" / "train-00002-of-00003.parquet")
    with pytest.raises(DataError, match="00002-of-00003.parquet: has other columns or classes than the other tables"):
        open_images(tmp_path / "train").names()
