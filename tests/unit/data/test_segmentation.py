"""Images and label maps as samples: from folders and zip files, matched by name, with errors that list all faults."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from swin_dense.data.ade20k import SegmentationDataset
from swin_dense.errors import DataError
from swin_dense.label_maps.classes import read_classes
from swin_dense.label_maps.conversion import LabelConversion
from swin_dense.label_maps.layout import official_layout
from swin_dense.records import IGNORE_INDEX

THREE = LabelConversion(3, 0, 255)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images whose red channel is 100 + label, one of them in a subfolder."""
    for number, name in enumerate(("a", "deep/b")):
        labels = np.random.default_rng(number).integers(0, 3, (4 + number, 6), np.uint8)
        save(tmp_path / f"labels/{name}.png", labels)
        save(tmp_path / f"images/{name}.png", np.stack([100 + labels] * 3, axis=-1))
    return tmp_path


def zipped(folder: Path, path: Path, prefix: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for member in sorted(folder.rglob("*.*")):
            file.write(member, f"{prefix}{member.relative_to(folder).as_posix()}")
        file.writestr("__MACOSX/images/._a.png", b"")
    return path


def assert_whole(dataset: SegmentationDataset) -> None:
    assert len(dataset) == 2
    for index, name in enumerate(("a.png", "deep/b.png")):
        sample = dataset[index]
        assert (sample.image_id, sample.file_name) == (index, name)
        assert sample.original_size == sample.size == tuple(sample.label_map.shape) == (4 + index, 6)
        assert isinstance(sample.label_map, tv_tensors.Mask) and sample.label_map.dtype == torch.int32
        assert torch.equal(sample.image[0].int() - 100, sample.label_map.as_subclass(torch.Tensor))


def test_folders_zip_files_and_folders_in_zip_files_give_the_same_samples(root):
    assert_whole(SegmentationDataset(root / "images", root / "labels", THREE))
    both = zipped(root, root / "both.zip", "top/")
    for inside in ("top/", ""):
        assert_whole(SegmentationDataset(both / f"{inside}images", both / f"{inside}labels", THREE))
    images = zipped(root / "images", root / "images.zip", "images/")
    labels = zipped(root / "labels", root / "labels.zip", "")
    dataset = SegmentationDataset(images, labels, THREE)
    assert_whole(dataset)
    assert_whole(pickle.loads(pickle.dumps(dataset)))


def test_everything_without_a_partner_is_listed(root):
    save(root / "images/c.png", np.zeros((2, 2, 3), np.uint8))
    save(root / "labels/d.png", np.zeros((2, 2), np.uint8))
    save(root / "images/a.jpg", np.zeros((4, 6, 3), np.uint8))
    (root / "images/notes.txt").write_text("no image")
    (root / "images/.hidden.png").write_text("no image")
    with pytest.raises(DataError) as error:
        SegmentationDataset(root / "images", root / "labels", THREE)
    found = [line.removeprefix(f"{root}/").split(":")[0] for line in error.value.problems]
    assert found == ["images/a.jpg", "images/c.png", "labels/d.png"]


def test_folders_that_hold_nothing_and_folders_that_are_not_there_are_named(root):
    (root / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no image"):
        SegmentationDataset(root / "empty", root / "empty", THREE)
    both = zipped(root, root / "both.zip", "top/")
    with pytest.raises(DataError, match=r"both\.zip/nowhere: no such folder in the zip file"):
        SegmentationDataset(both / "nowhere", both / "labels", THREE)


def test_an_image_of_another_size_than_its_label_map_is_an_error_that_names_both(root):
    save(root / "images/a.png", np.zeros((6, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"image of .*labels/a\.png: .*images/a\.png: 4 wide and 6 high, but annotated"):
        SegmentationDataset(root / "images", root / "labels", THREE)[0]


def test_a_turned_photograph_fits_the_label_map_that_was_drawn_on_it_as_it_is_shown_or_as_it_is_stored(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (4, 6), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    (tmp_path / "images").mkdir()
    Image.fromarray(labels + 100).save(tmp_path / "images/a.png", exif=exif)
    for drawn_on in (labels, np.rot90(labels, -1)):
        save(tmp_path / "labels/a.png", np.ascontiguousarray(drawn_on))
        sample = SegmentationDataset(tmp_path / "images", tmp_path / "labels", THREE)[0]
        assert torch.equal(sample.image[0].int() - 100, sample.label_map.as_subclass(torch.Tensor))


def test_a_label_that_is_no_class_is_an_error_that_names_file_label_and_count(root):
    labels = np.zeros((4, 6), np.uint8)
    labels[0, :2] = 7
    save(root / "labels/a.png", labels)
    with pytest.raises(DataError, match=r"labels/a\.png: labels 7 \(2 pixels\) are no class: files hold 0\.\.2"):
        SegmentationDataset(root / "images", root / "labels", THREE)[0]


def test_real_ade20k_has_its_raw_0_ignored_once_and_nothing_else_changed(shared_data):
    layout = official_layout(shared_data / "ade20k_tiny")
    names, palette = read_classes(layout.classes)
    assert len(names) == 150 and (names[0], names[1], names[149]) == ("wall", "building", "flag")
    assert palette.shape == (150, 3) and palette[:2].tolist() == [[120, 120, 120], [180, 120, 120]]
    dataset = SegmentationDataset(layout.train_images, layout.train_labels, LabelConversion(150))
    assert len(dataset) == 3
    for sample in map(dataset.__getitem__, range(3)):
        raw = np.asarray(Image.open(layout.train_labels / f"{Path(sample.file_name).stem}.png")).astype(np.int32)
        restored = torch.where(sample.label_map == IGNORE_INDEX, 0, sample.label_map + 1)
        np.testing.assert_array_equal(restored.numpy(), raw)
        assert sample.size == raw.shape and (raw == 0).any()
