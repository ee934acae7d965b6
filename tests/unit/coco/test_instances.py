import copy
import json
import math
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as rle_codec

from swin_dense.coco import parsing
from swin_dense.coco.instances import CocoInstances, read_instances
from swin_dense.coco.rules import apply_rules, refuse_errors
from swin_dense.errors import DataError
from swin_dense.records import Ragged


def judged(source, masks: bool = True) -> CocoInstances:
    instances, findings = read_instances(source, need_file_names=False)
    refuse_errors(instances.file, [*findings, *apply_rules(instances, masks=masks)])
    return instances


def written(scene, folder: Path) -> Path:
    file = folder / "instances.json"
    file.write_text(json.dumps(scene))
    return file


def pixels(source) -> np.ndarray:
    return rle_codec.decode(judged(source).mask(0))


def test_polygons_and_both_forms_of_rle_mean_the_same_mask(scene):
    mask = pixels(scene)
    compressed = rle_codec.encode(np.asfortranarray(mask))
    runs = [len(run) for run in np.split(mask.T.ravel(), np.flatnonzero(np.diff(mask.T.ravel())) + 1)]
    for segmentation in (
        {"size": [100, 120], "counts": compressed["counts"].decode()},
        {"size": [100, 120], "counts": runs},
    ):
        scene["annotations"][0]["segmentation"] = segmentation
        assert np.array_equal(pixels(scene), mask)
    assert mask.sum() == 1600


def test_what_it_was_given_stays_as_it_was(scene):
    before = copy.deepcopy(scene)
    judged(scene)
    assert scene == before


@pytest.mark.parametrize("null", [True, False])
def test_boxes_alone_need_no_segmentation(scene, null):
    for annotation in scene["annotations"]:
        for key in ("segmentation", "area", "iscrowd"):
            del annotation[key]
        annotation |= {"segmentation": None, "area": None, "iscrowd": None} if null else {}
    instances = judged(scene, masks=False)
    assert instances.areas.tolist() == instances.boxes[:, 2:].prod(dim=1).tolist() == [1600, 2500, 1200]
    assert not instances.crowd.any()
    one_line = "image 10, annotation 1: there is no 'segmentation', nor in any of the 2 other annotations"
    with pytest.raises(DataError, match=one_line) as error:
        judged(scene)
    assert len(error.value.problems) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not a JSON file"),
        ("\xff", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ("[1, 2]", "this is a list; a COCO instances file is"),
        ('{"images": [{}, {"file_name": "caf\xe9"}], "categories": [], "annotations": []}', r"images\[1\] is not JSON"),
        ('{"images": [], "annotations": {}}', "categories and annotations missing or not a list"),
    ],
)
def test_a_file_that_is_not_coco_is_named(tmp_path, text, reason):
    file = tmp_path / "instances.json"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=reason) as error:
        judged(file)
    assert str(file) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.json: cannot be read"):
        judged(tmp_path / "absent.json")


BAD_ANNOTATIONS = [
    ({"image_id": 11}, "image_id 11 is not the id of any"),
    ({"image_id": None}, "'image_id' is null"),
    ({"image_id": True}, "'image_id' is True, not an integer"),
    ({"category_id": 1}, "category_id 1 is not the id of any"),
    ({"category_id": [3]}, r"'category_id' is \[3\], not an integer"),
    ({"id": 2}, "2 annotations have this id"),
    ({"bbox": [1, 2, 3]}, "not four numbers"),
    ({"bbox": [1, 2, True, 3]}, "not four numbers"),
    ({"bbox": [1, 2, -3, 4]}, "has a negative side"),
    ({"bbox": [1, 2, 3, math.nan]}, "is not finite"),
    ({"bbox": [1, 2, 3, 10**400]}, "not four numbers"),
    ({"area": None}, "'area' is null"),
    ({"area": math.inf}, "area is inf"),
    ({"iscrowd": 2}, "neither 0 nor 1"),
    ({"segmentation": []}, "there is no 'segmentation'"),
    ({"segmentation": "RLE"}, "'segmentation' is 'RLE'"),
    ({"segmentation": [[1, 2, 3, 4]]}, "a polygon of 2 points"),
    ({"segmentation": [[60, 50, 100, 50, 80, 80], [1, 2, 3, 4]]}, "a polygon of 2 points"),
    ({"segmentation": [[1, 2, 3, 4, 5, math.nan]]}, "coordinate of the outline is not finite"),
    ({"segmentation": [[1, 2, 3, 4, 5, 1e12]]}, "reaches out of 120 x 100 pixels"),
    ({"segmentation": [[60, 50, 100, 50, 80, True]]}, "has true or false among its coordinates"),
    ({"segmentation": {"size": [120, 100], "counts": "1"}}, "RLE is 100 wide and 120 high, its image 120 wide"),
    ({"segmentation": {"size": 5, "counts": "08"}}, "has an RLE of size 5"),
    ({"segmentation": {"size": [True, 120], "counts": "08"}}, "has an RLE of size"),
    ({"segmentation": {"size": [100, 120], "counts": [5, 6]}}, "its runs cover 11 pixels"),
    ({"segmentation": {"size": [100, 120], "counts": [-5, 12005]}}, "has an RLE of counts"),
    ({"segmentation": {"size": [100, 120], "counts": "1P"}}, "RLE: its counts break off"),
    ({"segmentation": {"size": [100, 120]}}, "has an RLE of counts None"),
]


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize(("change", "reason"), BAD_ANNOTATIONS)
def test_a_wrong_annotation_is_named_by_its_id(scene, tmp_path, change, reason, in_file):
    scene["annotations"][2] |= change
    with pytest.raises(DataError, match=reason) as error:
        judged(written(scene, tmp_path) if in_file else scene)
    (problem,) = {problem.split(":")[0] for problem in error.value.problems}
    changed = scene["annotations"][2]
    assert problem in (f"image {changed['image_id']}, annotation {changed['id']}", f"annotation {changed['id']}")


def assert_same(one: CocoInstances, other: CocoInstances) -> None:
    for field in fields(CocoInstances):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(ours, Ragged):
            assert torch.equal(ours.offsets, theirs.offsets)
            ours, theirs = ours.values, theirs.values
        if isinstance(ours, torch.Tensor):
            assert ours.dtype == theirs.dtype
            assert torch.allclose(ours, theirs, rtol=0, atol=0, equal_nan=True), field.name
        elif field.name != "file":
            assert ours == theirs


ODD_ANNOTATIONS = [
    {"iscrowd": True},
    {"iscrowd": 0.0},
    {"iscrowd": None},
    {"id": 2**63 - 1},
    {"area": 7},
    {"area": -0.0},
    {"bbox": [1, 2.5, 3, 1e-300]},
    {"area": None, "segmentation": []},
    {"segmentation": None},
    {"segmentation": {"size": [100, 120], "counts": [0, 12000]}},
    {"segmentation": [[1, 2, 3, 4, 5, 6], [0.1, 2**70, 3e-7, 4, 5, 6, 7, 8.125]]},
    {"attributes": {"occluded": [True, {"deep": None}]}, "description": "caf\u00e9"},
    {"iscrowd": "yes"},
    {"id": 2**63},
    {"id": 7.0},
    {"area": 2**63},
    {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]},
    {"segmentation": [[1, 2, 3, 4, 5, "6"]]},
    {"segmentation": {"size": [100, 120], "counts": "caf\u00e9"}},
]


@pytest.mark.parametrize("change", [*ODD_ANNOTATIONS, *(change for change, _ in BAD_ANNOTATIONS)])
def test_a_file_says_what_its_content_says_in_memory(scene, tmp_path, change):
    scene["annotations"][2] |= change
    of_file, findings = read_instances(written(scene, tmp_path), need_file_names=False)
    in_memory, same_findings = read_instances(scene, need_file_names=False)
    assert_same(of_file, in_memory)
    assert [str(one) for one in findings] == [str(one) for one in same_findings]


@pytest.mark.parametrize("empty", [[], None, "absent"])
@pytest.mark.parametrize("area", [None, "absent"])
def test_a_file_of_boxes_alone_says_what_its_content_says_in_memory(scene, tmp_path, monkeypatch, empty, area):
    for one in scene["annotations"]:
        one |= {"segmentation": empty, "area": area}
        for key in ("segmentation", "area"):
            if one[key] == "absent":
                del one[key]
    for image in scene["images"]:
        image["file_name"] = f"{image['id']}.jpg"
    if area == "absent" and empty is not None:
        monkeypatch.setattr(parsing, "_decode_any", None)  # each record is decoded once
    of_file, findings = read_instances(written(scene, tmp_path), need_file_names=False)
    in_memory, _ = read_instances(scene, need_file_names=False)
    assert_same(of_file, in_memory)
    width, height = of_file.boxes[0, 2:].tolist()
    assert of_file.areas[0] == width * height and not findings and not of_file.has_outline.any()


def test_an_outline_whose_area_is_absent_is_left_out(scene, tmp_path):
    del scene["annotations"][0]["area"]
    for source in (written(scene, tmp_path), scene):
        _, (finding,) = read_instances(source, need_file_names=False)
        assert (finding.kind, finding.message) == ("missing-key", "annotations[0]: 'area' is missing")


def test_numbers_are_read_to_their_last_bit(scene, tmp_path):
    random = np.random.default_rng(0)
    texts = [f"{value:.{digits}g}" for value in random.uniform(0, 1e3, 500) for digits in (1, 5, 16, 17, 25)]
    texts += ["0.1", "1e-320", "2.2250738585072011e-308", "9007199254740993", "100000000000000016777215"]
    scene["annotations"] = [scene["annotations"][0] | {"segmentation": ["outline"]}]
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(scene).replace('"outline"', f"[{','.join(texts + texts)}]"))
    instances, _ = read_instances(file, need_file_names=False)
    assert instances.polygons.values.tolist() == [float(text) for text in texts + texts]


def test_real_coco_needs_no_record_looked_at_alone(shared_data, monkeypatch):
    """Sound records are decoded together with their checks; what takes long is kept for others."""
    monkeypatch.setattr(parsing, "_decode_any", None)
    monkeypatch.setattr(parsing, "read_json", None)
    instances, findings = read_instances(shared_data / "coco2017_tiny/annotations/instances_val2017.json")
    assert len(instances.ids) > 100
    assert not findings


def test_every_problem_is_reported_at_once(scene, tmp_path):
    scene["images"] += [
        {"id": 10, "height": 5, "width": 5},
        {"id": 40, "height": 0, "width": 5},
        {"file_name": "a.jpg"},
    ]
    scene["images"] += [{"id": 50, "height": 10**6, "width": 10**6}]
    scene["categories"] += [{"id": 3, "name": "bird"}, {"id": 9}, {"id": 11, "name": "cat"}, {}]
    scene["annotations"] += ["text", {"id": None}]
    with pytest.raises(DataError) as error:
        judged(written(scene, tmp_path))
    found = "\n".join(error.value.problems)
    for expected in (
        "image 10: 2 images have this id", "image 40: images[3]: 'height' is 0", "images[4]: 'id' is missing",
        "image 50: 1000000 x 1000000 pixels is more than can be read", "2 categories have the id 3",
        "categories[3]: 'name' is missing", "2 categories are named 'cat'", "categories[5]: 'id' is missing",
        "annotations[3] is 'text', not an object", "annotations[4]: 'id' is null",
    ):  # fmt: skip
        assert expected in found


@pytest.mark.parametrize("name", ["\ud800.jpg", "a\udfff.jpg"])
def test_half_characters_in_names_are_refused(scene, name):
    scene["images"][0]["file_name"] = name
    with pytest.raises(DataError, match="image 10: .*half a character"):
        judged(scene)
    scene["images"][0]["file_name"] = "caf\udce9.jpg"  # as `os.listdir` gives a name that is no UTF-8
    assert judged(scene).file_names.text(0) == "caf\udce9.jpg"
    scene["categories"][0]["name"] = name
    with pytest.raises(DataError, match="half a character"):
        judged(scene)


def test_an_image_may_be_as_large_as_can_be_read(scene):
    scene["images"][0] |= {"width": 2**15, "height": 2**15}
    judged(scene)
    scene["images"][0] |= {"width": 2**15 + 1}
    with pytest.raises(DataError, match="is more than can be read"):
        judged(scene)


def test_a_member_of_a_zip_file_is_read_like_a_file(scene, tmp_path):
    with zipfile.ZipFile(tmp_path / "annotations.zip", "w") as file:
        file.writestr("annotations/gt.json", json.dumps(scene))
    member = judged(tmp_path / "annotations.zip/annotations/gt.json")
    assert torch.equal(member.boxes, judged(scene).boxes)
