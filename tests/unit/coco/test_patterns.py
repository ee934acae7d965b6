"""What a whole file looks like, and what it is called then."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.coco_files import HEIGHT, OUTLINE, WIDTH, annotation, document, rle
from swin_dense.coco.check import CheckReport
from swin_dense.data.coco import CocoDataset
from swin_dense.errors import DataError


def rows_of_boxes(boxes: list[list[float]], outlines: bool = False) -> list[dict[str, Any]]:
    """Annotations 10, 11, ... of image 1 whose outlines, if any, are the true ones: those of `TRUE_BOXES`."""
    rows = []
    for place, (box, true) in enumerate(zip(boxes, TRUE_BOXES, strict=True)):
        x, y, w, h = true
        outline = {"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]} if outlines else {"segmentation": None}
        rows.append(annotation(id=10 + place, bbox=box, area=w * h, **outline))
    return rows


TRUE_BOXES = [[20, 30, 40, 20], [100, 10, 45, 60], [90, 50, 55, 45], [5, 5, 30, 90], [110, 70, 35, 28]]
RELATIVE = [[x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT] for x, y, w, h in TRUE_BOXES]
FORMS = {
    "relative coordinates": RELATIVE,
    "relative coordinates, not pixels": [[x + w / 2, y + h / 2, w, h] for x, y, w, h in RELATIVE],
    "corners": [[x, y, x + w, y + h] for x, y, w, h in TRUE_BOXES],
    "centres": [[x + w / 2, y + h / 2, w, h] for x, y, w, h in TRUE_BOXES],
    "x and y swapped": [[y, x, h, w] for x, y, w, h in TRUE_BOXES],
}


@pytest.mark.parametrize("outlines", [False, True])
@pytest.mark.parametrize("what", FORMS)
def test_boxes_of_another_form_are_called_what_they_look_like(check, tmp_path, what, outlines):
    content = document(annotations=rows_of_boxes(FORMS[what], outlines))
    report = check(content)
    first = report.problems[0]
    assert not report.ok and first.kind in ("relative-boxes", "box-form") and what in first.message
    assert first.severity == "error" and "of 5 boxes" in first.message
    with pytest.raises(DataError, match=what):
        CocoDataset(tmp_path / "instances.json", tmp_path, masks=outlines)


@pytest.mark.parametrize("outlines", [False, True])
def test_one_wrong_box_among_sound_ones_is_only_that(check, outlines):
    boxes = [*TRUE_BOXES[:4], FORMS["corners"][4]]
    kinds = {problem.kind for problem in check(document(annotations=rows_of_boxes(boxes, outlines))).problems}
    assert "box-outside" in kinds and "box-form" not in kinds
    assert all(one.severity == "warning" for one in check(document(annotations=rows_of_boxes(TRUE_BOXES))).problems)


def of_boxes(boxes: list[list[float]], side: int = 640) -> dict[str, Any]:
    """A file of boxes without outlines in one image."""
    images = [{"id": 1, "file_name": "1.png", "height": side, "width": side}]
    rows = [annotation(id=1 + i, bbox=box, area=box[2] * box[3], segmentation=None) for i, box in enumerate(boxes)]
    return document(images=images, annotations=rows)


MANY = [[40.5 + 20 * i, 30.25, 60.5, 100 + 10 * i] for i in range(20)]


@pytest.mark.parametrize(("few", "severity"), [(1, "warning"), (10, "error"), (19, "error")])
def test_boxes_in_0_to_1_are_named_among_others_too(check, few, severity):
    boxes = [[one / 640 for one in box] for box in MANY[:few]] + MANY[few:]
    found = {one.kind: one for one in check(of_boxes(boxes)).problems}
    assert found["relative-boxes"].severity == severity
    assert f"{few} of 20 boxes lie in 0..1" in found["relative-boxes"].message


def test_percentages_are_named_and_small_images_are_not_taken_for_them(check):
    boxes = [[100 * one / 640 for one in box] for box in MANY]
    assert [one.kind for one in check(of_boxes(boxes)).problems if "percentages" in one.message] == ["relative-boxes"]
    for sound in (of_boxes(boxes, side=128), of_boxes(MANY)):
        assert "relative-boxes" not in {one.kind for one in check(sound).problems}


def test_corners_in_half_of_the_boxes_are_named(check):
    boxes = [[x, y, x + w, y + h] if i % 2 else [x, y, w, h] for i, (x, y, w, h) in enumerate(MANY)]
    (finding,) = (one for one in check(of_boxes(boxes)).problems if one.kind == "box-form")
    assert "these look like corners" in finding.message


def test_tiny_boxes_in_tiny_images_are_sound(check):
    images = [{"id": 1, "file_name": "1.png", "height": 3, "width": 3}]
    rows = [annotation(id=1, bbox=[0, 0, 1, 1], area=1, segmentation=None)]
    assert "relative-boxes" not in {one.kind for one in check(document(images=images, annotations=rows)).problems}


def test_nothing_but_crowd_regions_is_an_error_and_most_a_warning(check, tmp_path):
    def crowded(count: int) -> CheckReport:
        rows = [annotation(id=10 + place, iscrowd=int(place < count), segmentation=rle()) for place in range(5)]
        return check(document(annotations=rows))

    kinds = {count: [(one.kind, one.severity) for one in crowded(count).problems] for count in (2, 3, 5)}
    assert kinds[2] == [] and kinds[3] == [("mostly-crowd", "warning")]
    assert ("only-crowd", "error") in kinds[5]
    with pytest.raises(DataError, match=r"all 5 annotations are crowd regions \(iscrowd=1\)"):
        CocoDataset(tmp_path / "instances.json", tmp_path)
    assert crowded(3).to_dict()["left_out_of_training"] == {
        "images without anything to learn from": 1,
        "crowd regions": 3,
    }


@pytest.mark.parametrize(
    ("areas", "kind"),
    [
        ([0, 0, 0, 800, 800], "zero-areas"),
        ([0, 0, 800, 800, 800], None),
        ([0.05, 0.05, 0.05, 0.05, 800], "wrong-areas"),
        ([80000, 80000, 80000, 800, 800], "wrong-areas"),
        ([790, 810, 900, 700, 1100], None),
    ],
)
@pytest.mark.parametrize("outline", [[OUTLINE], None, rle()], ids=["polygon", "box", "rle"])
def test_areas_of_nothing_or_of_something_else_are_a_warning(check, areas, kind, outline):
    rows = [annotation(id=10 + place, area=area, segmentation=outline) for place, area in enumerate(areas)]
    report = check(document(annotations=rows))
    assert report.ok and [one.kind for one in report.problems if one.kind != "no-masks"] == ([kind] if kind else [])


def test_a_root_super_category_is_called_one(check):
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 3, "name": "cat", "supercategory": "animals"},
        {"id": 8, "name": "dog", "supercategory": "animals"},
    ]
    (finding,) = check(document(categories=categories)).problems
    assert finding.kind == "root-category" and "0 'animals'" in finding.message and finding.severity == "warning"
    categories[2]["supercategory"] = "pets"
    assert check(document(categories=categories)).problems == ()
    assert check(document(annotation(category_id=0), categories=categories)).problems == ()
