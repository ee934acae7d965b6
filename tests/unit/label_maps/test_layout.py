"""The official layout, found in folders and in its zip file; the colours of `color150.mat`."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from swin_dense.data.shapes import SEGMENTATION_CLASS_NAMES, write_shapes
from swin_dense.errors import DataError
from swin_dense.label_maps.layout import official_layout, read_classes
from swin_dense.label_maps.palettes import read_palette


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


def mat_file(path: Path, colours: np.ndarray, kind: int = 2) -> Path:
    """A MATLAB level 5 file of one matrix, not compressed."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<2I", kind, len(data)) + data + b"\0" * (-len(data) % 8)

    name = struct.pack("<2H4s", 1, 3, b"map")  # the small format
    shape = struct.pack("<2i", *colours.shape)
    parts = element(6, bytes(8)), element(5, shape), name, element(kind, colours.tobytes(order="F"))
    path.write_bytes(bytes(128) + element(14, b"".join(parts)))
    return path


def test_a_palette_is_read_in_matlabs_order(tmp_path):
    colours = np.arange(15, dtype=np.uint8).reshape(5, 3)
    np.testing.assert_array_equal(read_palette(mat_file(tmp_path / "a.mat", colours), 5), colours)


def test_a_palette_that_is_none_or_of_other_classes_is_refused(tmp_path):
    colours = np.zeros((5, 3), np.uint8)
    path = mat_file(tmp_path / "a.mat", colours)
    with pytest.raises(DataError, match=r"a\.mat: is no uint8 matrix of 6 x 3 colours"):
        read_palette(path, 6)
    with pytest.raises(DataError, match="is no uint8 matrix"):
        read_palette(mat_file(tmp_path / "b.mat", colours, kind=9), 5)
    whole = path.read_bytes()
    for size in range(0, len(whole) - 8, 8):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a\.mat: "):
            read_palette(path, 5)
