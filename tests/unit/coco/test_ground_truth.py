import copy
import json
import math

import numpy as np
import pytest
from pycocotools import mask as rle_codec

from swin_dense.coco.ground_truth import read_ground_truth
from swin_dense.errors import DataError


def pixels(annotation) -> np.ndarray:
    return rle_codec.decode(annotation.rle)


def test_polygons_and_both_forms_of_rle_mean_the_same_mask(scene):
    polygon = read_ground_truth(scene, masks=True).annotations[0]
    mask = pixels(polygon)
    compressed = rle_codec.encode(np.asfortranarray(mask))
    runs = [len(run) for run in np.split(mask.T.ravel(), np.flatnonzero(np.diff(mask.T.ravel())) + 1)]
    for segmentation in (
        {"size": [100, 120], "counts": compressed["counts"].decode()},
        {"size": [100, 120], "counts": runs},
    ):
        scene["annotations"][0]["segmentation"] = segmentation
        assert np.array_equal(pixels(read_ground_truth(scene, masks=True).annotations[0]), mask)
    assert mask.sum() == 1600


def test_what_it_was_given_stays_as_it_was(scene):
    before = copy.deepcopy(scene)
    read_ground_truth(scene, masks=True)
    assert scene == before


def test_boxes_alone_need_no_segmentation(scene):
    for annotation in scene["annotations"]:
        del annotation["segmentation"], annotation["area"]
    for annotation in read_ground_truth(scene, masks=False).annotations:
        assert annotation.area == annotation.box[2] * annotation.box[3] > 0
    with pytest.raises(DataError, match="annotation 1 of image 10: has no segmentation") as error:
        read_ground_truth(scene, masks=True)
    assert len(error.value.problems) == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ("\xff", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1, 2]", "holds a list, not an object"),
        ('{"images": [], "annotations": {}}', "no list of categories and of annotations"),
    ],
)
def test_a_file_that_is_not_coco_is_named(tmp_path, text, reason):
    file = tmp_path / "instances.json"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=reason) as error:
        read_ground_truth(file, masks=True)
    assert str(file) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.json: cannot be read"):
        read_ground_truth(tmp_path / "absent.json", masks=True)


BAD_ANNOTATIONS = [
    ({"image_id": 11}, "no such image"),
    ({"image_id": None}, "no such image"),
    ({"image_id": True}, "no such image"),
    ({"category_id": 1}, "no such category"),
    ({"category_id": [3]}, "no such category"),
    ({"id": 2}, "id is used twice"),
    ({"bbox": [1, 2, 3]}, "not four finite numbers"),
    ({"bbox": [1, 2, -3, 4]}, "not four finite numbers"),
    ({"bbox": [1, 2, 3, math.nan]}, "not four finite numbers"),
    ({"bbox": [1, 2, 3, 10**400]}, "not four finite numbers"),
    ({"area": None}, "area None"),
    ({"area": math.inf}, "area inf"),
    ({"iscrowd": 2}, "neither 0 nor 1"),
    ({"segmentation": []}, "has no segmentation"),
    ({"segmentation": "RLE"}, "has no segmentation"),
    ({"segmentation": [[1, 2, 3, 4]]}, "at least three points"),
    ({"segmentation": [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4]]}, "at least three points"),
    ({"segmentation": [[1, 2, 3, 4, 5, math.nan]]}, "not numbers near the image"),
    ({"segmentation": [[1, 2, 3, 4, 5, 1e12]]}, "not numbers near the image"),
    ({"segmentation": {"size": [120, 100], "counts": "1"}}, r"not the image's \[100, 120\]"),
    ({"segmentation": {"size": [100, 120], "counts": [5, 6]}}, "do not fill the image"),
    ({"segmentation": {"size": [100, 120], "counts": [-5, 12005]}}, "do not fill the image"),
    ({"segmentation": {"size": [100, 120], "counts": "1P"}}, "no mask: its counts break off"),
    ({"segmentation": {"size": [100, 120]}}, "no mask: its counts are not"),
]


@pytest.mark.parametrize(("change", "reason"), BAD_ANNOTATIONS)
def test_a_wrong_annotation_is_named_by_its_id(scene, change, reason):
    scene["annotations"][2] |= change
    with pytest.raises(DataError, match=reason) as error:
        read_ground_truth(scene, masks=True)
    assert len(error.value.problems) == 1
    assert f"annotation {scene['annotations'][2]['id']} of image {scene['annotations'][2]['image_id']}" in str(
        error.value
    )


def test_every_problem_is_reported_at_once(scene, tmp_path):
    scene["images"] += [
        {"id": 10, "height": 5, "width": 5},
        {"id": 40, "height": 0, "width": 5},
        {"file_name": "a.jpg"},
    ]
    scene["images"] += [{"id": 50, "height": 10**6, "width": 10**6}]
    scene["categories"] += [{"id": 3, "name": "bird"}, {"id": 9}, {"id": 11, "name": "cat"}, {}]
    scene["annotations"] += ["text", {"id": None}]
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(scene))
    with pytest.raises(DataError) as error:
        read_ground_truth(file, masks=True)
    assert [problem.split(":")[0].split(" ")[0] for problem in error.value.problems] == [
        "images[2]", "images[3]", "images[4]", "images[5]",
        "categories[2]", "categories[3]", "categories[4]", "categories[5]",
        "annotations[3]", "annotations[4]",
    ]  # fmt: skip
