"""COCO's stuffthingmaps beside the instances: read, checked, and kept aligned with the image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from swin_dense.data.coco import CocoDataset
from swin_dense.data.transforms import RandomHorizontalFlip
from swin_dense.errors import DataError
from swin_dense.records import IGNORE_INDEX

HEIGHT, WIDTH = 6, 8


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One image, its annotation, and its label map: a person (0), grass (123) and pixels of neither (255)."""
    (tmp_path / "images").mkdir()
    (tmp_path / "stuff").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "7.jpg")
    labels = np.full((HEIGHT, WIDTH), 123, dtype=np.uint8)
    labels[:2, :3], labels[5] = 0, 255
    Image.fromarray(labels).save(tmp_path / "stuff" / "7.png")
    annotation = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 3, 2], "area": 6, "iscrowd": 0}
    annotation["segmentation"] = [[0, 0, 3, 0, 3, 2, 0, 2]]
    truth = {
        "images": [{"id": 7, "file_name": "7.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [annotation],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return tmp_path


def read(root: Path, stuff: str | None = "stuff") -> CocoDataset:
    return CocoDataset(root / "truth.json", root / "images", stuff=None if stuff is None else root / stuff)


def test_samples_have_the_class_of_every_pixel(root: Path) -> None:
    sample = read(root)[0]
    assert sample.label_map is not None and sample.instances is not None
    expected = torch.full((HEIGHT, WIDTH), 123, dtype=torch.int32)
    expected[:2, :3], expected[5] = 0, IGNORE_INDEX
    assert sample.label_map.dtype == torch.int32 and (sample.label_map == expected).all()
    flipped = RandomHorizontalFlip(1)(sample)
    assert flipped.label_map is not None and flipped.instances is not None and flipped.instances.masks is not None
    assert (flipped.label_map == expected.flip(1)).all()
    assert ((flipped.label_map == 0) == flipped.instances.masks[0]).all()


def test_samples_have_no_label_map_unless_asked_for(root: Path) -> None:
    assert read(root, stuff=None)[0].label_map is None


def test_a_label_beyond_the_classes_is_named(root: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 200, dtype=np.uint8)).save(root / "stuff" / "7.png")
    with pytest.raises(DataError, match=r"7\.png: labels 200 \(48 pixels\) are no class: files hold 0\.\.182"):
        read(root)[0]


def test_a_label_map_of_another_size_is_named(root: Path) -> None:
    Image.new("L", (WIDTH, HEIGHT + 1)).save(root / "stuff" / "7.png")
    with pytest.raises(DataError, match=r"7\.png is 7x8, but its image 6x8"):
        read(root)[0]


def test_a_missing_label_map_is_named(root: Path) -> None:
    (root / "stuff" / "7.png").unlink()
    with pytest.raises(DataError, match=r"7\.png"):
        read(root)[0]
