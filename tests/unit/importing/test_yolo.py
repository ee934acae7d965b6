"""YAML files of YOLO that say less, or more, than there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import annotation_exports as exports
from swin_dense.errors import DataError
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
