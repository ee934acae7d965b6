"""The official layout, found in folders and in its zip file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from swin_dense.data.shapes import SEGMENTATION_CLASS_NAMES, write_shapes
from swin_dense.errors import DataError
from swin_dense.label_maps.classes import read_classes
from swin_dense.label_maps.layout import official_layout


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "shapes", train=1, val=1, size=32) / "ade20k"


def test_the_layout_is_found_in_its_folder_above_it_and_in_the_zip_file(shapes, tmp_path):
    archive = tmp_path / "ADEChallengeData2016.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(shapes.rglob("*.*")):
            file.write(path, f"ADEChallengeData2016/{path.relative_to(shapes).as_posix()}")
    above = tmp_path / "above"
    above.mkdir()
    (above / "ADEChallengeData2016").symlink_to(shapes)
    bases = {shapes: shapes, above: above / "ADEChallengeData2016", archive: archive, tmp_path: archive}
    for root, base in bases.items():
        layout = official_layout(root)
        assert layout.train_images == base / "images/training" and layout.val_labels == base / "annotations/validation"
        assert read_classes(layout.classes) == (SEGMENTATION_CLASS_NAMES, None)


def test_what_is_missing_from_the_layout_is_named(shapes, tmp_path):
    with pytest.raises(DataError, match="not the layout of ADEChallengeData2016"):
        official_layout(tmp_path)
    (tmp_path / "annotations").symlink_to(shapes / "annotations")
    with pytest.raises(DataError, match=r"objectInfo150\.txt: no such class list"):
        official_layout(tmp_path)
    assert official_layout(tmp_path, tmp_path / "mine.txt").classes == tmp_path / "mine.txt"


def test_the_class_list_between_commas_will_do(shapes, tmp_path):
    (tmp_path / "annotations").symlink_to(shapes / "annotations")
    (tmp_path / "objectInfo150.csv").write_text("Idx,Ratio,Name\n1,0.5,road\n2,0.5,tree\n")
    assert read_classes(official_layout(tmp_path).classes) == (("road", "tree"), None)
