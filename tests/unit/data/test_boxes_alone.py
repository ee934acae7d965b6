"""Annotations of boxes without outlines: enough for a detector of boxes, refused by name where masks are learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from swin_dense.coco.check import check_coco
from swin_dense.data.coco import CocoDataset
from swin_dense.data.transforms import RandomHorizontalFlip, crop, resize
from swin_dense.errors import DataError

BOX = {"image_id": 1, "category_id": 3, "bbox": [20, 30, 40, 20]}
OUTLINE = [[20, 30, 60, 30, 60, 50, 20, 50]]
WITHOUT_OUTLINE: list[dict[str, Any]] = [{}, {"segmentation": None}, {"segmentation": []}]


def write(folder: Path, *annotations: dict[str, Any]) -> Path:
    """A file of one image of 100 rows and 150 columns, with annotations 1, 2, ..."""
    Image.new("RGB", (150, 100)).save(folder / "1.png")
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 100, "width": 150}],
        "annotations": [{"id": number, **one} for number, one in enumerate(annotations, 1)],
        "categories": [{"id": 3, "name": "cat"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json"


@pytest.mark.parametrize("outline", WITHOUT_OUTLINE)
def test_samples_have_boxes_and_no_masks(tmp_path: Path, outline: dict[str, Any]) -> None:
    path = write(tmp_path, BOX | outline, BOX | outline | {"bbox": [0, 0, 10, 10], "iscrowd": 1})
    dataset = CocoDataset(path, tmp_path, masks=False)
    instances = dataset[0].instances
    assert instances is not None and instances.masks is None
    assert instances.boxes.tolist() == [[20, 30, 60, 50], [0, 0, 10, 10]]
    assert instances.labels.tolist() == [0, 0] and instances.crowd.tolist() == [False, True]


def test_a_box_without_a_stated_area_is_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, BOX, BOX | {"area": 700})
    assert CocoDataset(path, tmp_path, masks=False).annotations.areas.tolist() == [800, 700]
    assert check_coco(path, tmp_path).counts["small"] == 2


def test_masks_that_are_not_wanted_are_not_decoded_and_may_be_missing_here_and_there(tmp_path: Path) -> None:
    path = write(tmp_path, BOX, BOX | {"area": 800, "segmentation": OUTLINE})
    dataset = CocoDataset(path, tmp_path, masks=False)
    assert dataset.annotations.has_outline.tolist() == [False, True]
    instances = dataset[0].instances
    assert instances is not None and len(instances) == 2 and instances.masks is None


@pytest.mark.parametrize("outline", WITHOUT_OUTLINE)
def test_a_data_set_of_masks_names_each_annotation_that_has_none(tmp_path: Path, outline: dict[str, Any]) -> None:
    path = write(tmp_path, BOX | {"area": 800, "segmentation": OUTLINE}, BOX | outline, BOX | outline)
    with pytest.raises(DataError, match=r"instances\.json: 2 errors") as error:
        CocoDataset(path, tmp_path)
    assert [problem.split(";")[0] for problem in error.value.problems] == [
        f"image 1, annotation {number}: there is no 'segmentation'" for number in (2, 3)
    ]
    assert all("train a detector of boxes alone" in problem for problem in error.value.problems)


def test_a_data_set_of_boxes_is_refused_in_one_line_that_names_a_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, BOX, BOX, BOX)
    with pytest.raises(DataError, match=r"instances\.json: 1 errors") as error:
        CocoDataset(path, tmp_path)
    assert error.value.problems == (
        "image 1, annotation 1: there is no 'segmentation', nor in any of the 2 other annotations; train a detector of "
        "boxes alone, such as faster-rcnn_swin-t_fpn_small-data, or draw the outlines",
    )


@pytest.mark.parametrize("change", [{"bbox": [20, 30, 0, 20]}, {"bbox": [20, 30, 400, 20]}, {"area": -1}])
def test_boxes_are_checked_as_ever(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="image 1, annotation 1"):
        CocoDataset(write(tmp_path, BOX | change), tmp_path, masks=False)


def test_an_area_is_needed_beside_an_outline(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations\[0\]: 'area' is missing"):
        CocoDataset(write(tmp_path, BOX | {"segmentation": OUTLINE}), tmp_path, masks=False)


def test_checking_says_what_the_data_is_fit_for(tmp_path: Path) -> None:
    report = check_coco(write(tmp_path, BOX, BOX), tmp_path)
    assert report.ok
    (problem,) = report.problems
    assert problem.severity == "warning" and "no masks" in str(problem) and "fit for box detectors only" in str(problem)
    mixed = check_coco(write(tmp_path, BOX, BOX | {"area": 800, "segmentation": OUTLINE}), tmp_path)
    assert [(one.kind, one.annotation_id) for one in mixed.problems] == [("no-outline", 1)] and not mixed.ok


def test_transforms_move_boxes_that_come_alone(tmp_path: Path) -> None:
    inside, corner = BOX, BOX | {"bbox": [100, 60, 40, 30]}
    sample = CocoDataset(write(tmp_path, inside, corner), tmp_path, masks=False)[0]
    changed = RandomHorizontalFlip(1)(resize(crop(sample, 20, 10, 40, 70), (80, 140)))
    assert changed.instances is not None and changed.instances.masks is None
    # (20, 30, 60, 50) is (10, 10, 50, 30) in the window, twice that after the resize, and mirrored in 140 columns.
    assert changed.instances.boxes.tolist() == [[40, 20, 120, 60]]
    assert torch.equal(changed.instances.crowd, torch.tensor([False]))
