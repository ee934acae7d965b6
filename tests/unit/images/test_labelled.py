"""Images with one class each: folders, zip files, tar files and lists give the same; what is wrong is named."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swin_dense.errors import DataError
from swin_dense.images.labelled import ClassList, find_classes, open_images, read_class_list, read_labelled

FILES = {"n00000001/a.jpg": 10, "n00000001/b.jpg": 60, "n00000002/a.png": 110, "n00000002/deep/c.jpg": 160}


def content(brightness: int, suffix: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.full((8, 12, 3), brightness, dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG" if suffix == ".png" else "JPEG")
    return buffer.getvalue()


def write(root: Path, form: str) -> Path:
    files = {name: content(brightness, Path(name).suffix) for name, brightness in FILES.items()}
    if form == "zip":
        with zipfile.ZipFile(root / "train.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(f"train/{name}", data)
        return root / "train.zip" / "train"
    folder = root / "train"
    for name, data in files.items():
        if form == "folder":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        else:
            folder.mkdir(exist_ok=True)
            class_name, _, member = name.partition("/")
            with tarfile.open(folder / f"{class_name}.tar", "a") as tar:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return folder


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_every_form_gives_the_same_images_and_labels(tmp_path: Path, form: str) -> None:
    store = open_images(write(tmp_path, form))
    classes = find_classes([store], [None])
    assert classes.names == ("n00000001", "n00000002")
    images = read_labelled(store, None, classes)
    found = {images.names.text(i): int(images.labels[i]) for i in range(len(images))}
    assert found == {name: int(name[8]) - 1 for name in FILES}
    for name, brightness in FILES.items():
        image = store.read(name)
        assert image.shape == (3, 8, 12) and abs(int(image[0, 0, 0]) - brightness) < 3


def test_a_list_says_the_classes_by_number_or_by_name(tmp_path: Path) -> None:
    store = open_images(write(tmp_path, "folder"))
    classes = ClassList(("n00000001", "n00000002"), ("cat", "wild dog"))
    (tmp_path / "list.txt").write_text("n00000001/a.jpg 1\nn00000002/a.png\twild dog\nn00000001/b.jpg n00000001\n")
    images = read_labelled(store, tmp_path / "list.txt", classes)
    assert images.labels.tolist() == [1, 1, 0] and images.names.text(2) == "n00000001/b.jpg"
    (tmp_path / "list.txt").write_text("n00000001/a.jpg 2\n../out.jpg 0\nnone.jpg 0\n")
    with pytest.raises(DataError) as error:
        read_labelled(store, tmp_path / "list.txt", classes)
    assert all(part in str(error.value) for part in ("no class '2'", "leads out", "none.jpg: no such image"))


def test_a_list_of_words_names_the_classes_and_one_of_numbers_asks_for_names(tmp_path: Path) -> None:
    store = open_images(write(tmp_path, "folder"))
    (tmp_path / "list.txt").write_text("n00000001/a.jpg dog\nn00000001/b.jpg cat\n")
    assert find_classes([store], [tmp_path / "list.txt"]).names == ("cat", "dog")
    (tmp_path / "list.txt").write_text("n00000001/a.jpg 0\n")
    with pytest.raises(DataError, match="name a file with one class name per line"):
        find_classes([store], [tmp_path / "list.txt"])


def test_class_lists_are_names_or_folders_and_names(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("tench\ngreat white shark\n")
    assert read_class_list(path) == ClassList(("tench", "great white shark"), ("tench", "great white shark"))
    path.write_text("n02012849 crane\nn03126707 crane\nn01440764 tench, Tinca tinca\n")
    assert read_class_list(path).names == ("crane (n02012849)", "crane (n03126707)", "tench, Tinca tinca")
    path.write_text("a\tApple\nb\tBanana\n")
    assert read_class_list(path) == ClassList(("a", "b"), ("Apple", "Banana"))
    path.write_text("tench\ntench\n")
    with pytest.raises(DataError, match="in two lines"):
        read_class_list(path)


def test_a_folder_that_is_no_class_is_answered_with_the_nearest(tmp_path: Path) -> None:
    store = open_images(write(tmp_path, "folder"))
    with pytest.raises(DataError, match="no class 'n00000002'; did you mean \"n00000003\""):
        read_labelled(store, None, ClassList(("n00000001", "n00000003"), ("a", "b")))


def test_a_damaged_tar_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "n00000001.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match=r"n00000001.tar: cannot be read as an uncompressed tar file"):
        open_images(tmp_path)


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_an_empty_file_is_found_before_training_begins(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FILES, "n00000002/deep/c.jpg", -1)
    monkeypatch.setattr(f"{__name__}.content", lambda value, suffix: b"" if value < 0 else b"an image")
    store = open_images(write(tmp_path, form))
    with pytest.raises(DataError, match=r"1 images are empty files.*\n  - n00000002/deep/c.jpg"):
        read_labelled(store, None, find_classes([store], [None]))


def test_classes_that_differ_in_spaces_alone_are_one(tmp_path: Path) -> None:
    for name in ("a", "a ", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"'a' and 'a ' differ in spaces alone; make them one class"):
        find_classes([open_images(tmp_path)], [None])
