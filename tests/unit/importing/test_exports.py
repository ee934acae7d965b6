"""Exports as the tools write them that most people have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import annotation_exports as exports
from swin_dense.errors import DataError
from swin_dense.importing.importer import import_data
from swin_dense.importing.layouts import recognise
from swin_dense.importing.voc import read_voc
from swin_dense.importing.yolo import read_yolo


def test_a_yaml_file_of_yolo_that_names_classes_alone(tmp_path: Path) -> None:
    """As supervision writes it; splits are those of the folders, if any."""
    root = exports.yolo(tmp_path)
    expected = read_yolo(root)
    (root / "data.yaml").write_text("nc: 2\nnames: [cup, plate]\n")
    for source in (root, root / "data.yaml"):
        imported = read_yolo(source)
        assert imported.classes == ["cup", "plate"] and not imported.dropped
        assert [(one.split, one.objects) for one in imported.images] == [
            (one.split, one.objects) for one in expected.images
        ]


def test_a_test_split_that_a_yaml_file_of_yolo_names_and_lacks_is_left_out(tmp_path: Path) -> None:
    """Exports of Roboflow always name one."""
    root = exports.yolo(tmp_path)
    (root / "data.yaml").write_text("names: [cup, plate]\ntrain: ../images/train\ntest: ../images/test\n")
    imported = read_yolo(root)
    assert {image.split for image in imported.images} == {"train"}
    assert "no-test-images" in [one.kind for one in imported.dropped]
    (root / "data.yaml").write_text("names: [cup, plate]\ntrain: ../images/train\nval: ../images/absent\n")
    with pytest.raises(DataError, match="names '../images/absent', which is not in"):
        read_yolo(root)


def test_an_export_of_label_studio_is_yolo_although_its_notes_list_categories(tmp_path: Path) -> None:
    root = exports.yolo(tmp_path)
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("cup\nplate\n")
    categories = [{"id": 0, "name": "cup"}, {"id": 1, "name": "plate"}]
    (root / "notes.json").write_text(json.dumps({"categories": categories, "info": {"contributor": "Label Studio"}}))
    assert recognise(root) == "yolo"


def test_folders_of_voc_are_splits_where_there_are_no_lists(tmp_path: Path) -> None:
    """Roboflow has images and XML files side by side in `train` and `valid`."""
    source = exports.voc(tmp_path / "source")
    for name, split in zip(exports.NAMES, ("train", "valid"), strict=True):
        (tmp_path / "in" / split).mkdir(parents=True)
        for file in (source / f"JPEGImages/{name}.png", source / f"Annotations/{name}.xml"):
            file.rename(tmp_path / "in" / split / file.name)
    imported = read_voc(tmp_path / "in")
    assert {(image.path.stem, image.split) for image in imported.images} == set(
        zip(exports.NAMES, ("train", "val"), strict=True)
    )


def test_label_maps_beside_images_have_the_classes_of_their_table(tmp_path: Path) -> None:
    """As Roboflow exports semantic segmentation."""
    labels = np.zeros((exports.HEIGHT, exports.WIDTH), np.uint8)
    labels[:10] = 2
    for seed, split in enumerate(("train", "valid")):
        exports.image(tmp_path / f"in/{split}/a.png", seed)
        Image.fromarray(labels).save(tmp_path / f"in/{split}/a_mask.png")
        exports.text(
            tmp_path / f"in/{split}/_classes.csv", "Pixel Value, Class\n0, background\n1, cup\n2, plate, deep\n"
        )
    assert recognise(tmp_path / "in") == "masks"
    report = import_data(tmp_path / "in", tmp_path / "out", to="label-maps")
    assert report.classes == ["background", "cup", "plate, deep"] and report.images == {"train": 1, "val": 1}
    assert not report.dropped and report.instances["val"] == {"background": 1, "cup": 0, "plate, deep": 1}
    with pytest.raises(DataError, match='its masks are label maps, .* add to="label-maps"'):
        import_data(tmp_path / "in", tmp_path / "other")
    exports.text(tmp_path / "in/train/_classes.csv", "Pixel Value, Class\n1, cup\n")
    with pytest.raises(DataError, match="its rows are not 0, 1, 2"):
        import_data(tmp_path / "in", tmp_path / "other", to="label-maps")
