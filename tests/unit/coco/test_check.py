import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.coco_files import HEIGHT, OUTLINE, WIDTH, annotation, document, rle
from swin_dense.coco.check import check_coco
from swin_dense.data.coco import CocoDataset
from swin_dense.errors import DataError


@pytest.mark.parametrize("name", ["train2017", "val2017"])
def test_real_coco_has_no_problems(shared_data, name):
    root = shared_data / "coco2017_tiny"
    report = check_coco(root / f"annotations/instances_{name}.json", None)
    assert report.ok and report.problems == () and report.images == str(root / name)
    counts = report.counts
    assert counts["crowd"] == 5 and counts["images"] == 50 and len(report.instances_per_class) == 80
    persons = {"train2017": 99, "val2017": 127}
    assert report.instances_per_class["person"] <= persons[name] and counts["annotations"] in (470, 382)
    assert sum(counts[name] for name in ("small", "medium", "large", "crowd")) == counts["annotations"]


def test_a_file_whose_images_are_nowhere_is_checked_with_a_warning(shared_data):
    report = check_coco(shared_data / "coco_eval_golden/instances_val2014_100.json", None)
    assert report.ok and [problem.kind for problem in report.problems] == ["images-not-checked"]


def test_a_sound_file_is_counted(check):
    report = check(document(annotation(category_id=8, segmentation=rle(), iscrowd=1), annotation(id=6, area=9216)))
    assert report.problems == ()
    assert report.to_dict()["counts"] == {
        "images": 2,
        "annotations": 3,
        "categories": 2,
        "crowd": 1,
        "empty_images": 1,
        "small": 1,
        "medium": 0,
        "large": 1,
        "errors": 0,
        "warnings": 0,
    }
    assert report.instances_per_class == {"cat": 2, "dog": 0}


FAULTS = {
    "unknown-image": {"image_id": 77},
    "unknown-category": {"category_id": 77},
    "negative-box": {"bbox": [60, 30, -40, 20]},
    "zero-box": {"bbox": [20, 30, 0, 20]},
    "non-finite": {"bbox": [float("nan"), 30, 40, 20]},
    "box-outside": {"bbox": [20, 30, 140, 20]},
    "mask-outside": {"segmentation": [[-9, 30, 60, 30, 60, 50]]},
    "few-points": {"segmentation": [[20, 30, 60, 50]]},
    "odd-length": {"segmentation": [OUTLINE, [20, 30, 60, 30, 60, 50, 20]]},
    "no-outline": {"segmentation": []},
    "rle-size": {"segmentation": rle(WIDTH, HEIGHT)},
    "malformed-rle": {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [10, 20]}},
    "wrong-type": {"bbox": [20, 30, 40]},
    "area": {"area": -1},
}
MORE_FAULTS = [
    ("non-finite", {"bbox": [20, 30, float("inf"), 20]}),
    ("non-finite", {"segmentation": [[20, 30, float("nan"), 30, 60, 50]]}),
    ("non-finite", {"segmentation": [[20, 30, float("-inf"), 30, 60, 50]]}),
    ("box-outside", {"bbox": [-1e300, 30, 40, 20]}),
    ("mask-outside", {"segmentation": [[20, 30, 1e18, 30, 60, 50]]}),
    ("few-points", {"segmentation": [[]]}),
    ("malformed-rle", {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "%%%"}}),
    ("malformed-rle", {"segmentation": {"size": [HEIGHT, WIDTH], "counts": rle()["counts"][:-1]}}),
    ("malformed-rle", {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [-5, HEIGHT * WIDTH + 5]}}),
    ("malformed-rle", {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [2**40]}}),
    ("malformed-rle", {"segmentation": {"size": [-1, 2**40], "counts": "1"}}),
    ("malformed-rle", {"segmentation": {}}),
    ("wrong-type", {"segmentation": OUTLINE}),
    ("wrong-type", {"segmentation": [[[20, 30], [60, 30], [60, 50]]]}),
    ("wrong-type", {"segmentation": "20,30"}),
    ("wrong-type", {"bbox": {"x": 1}}),
    ("wrong-type", {"bbox": [20, 30, "40", 20]}),
    ("wrong-type", {"bbox": [20, 30, 10**400, 20]}),
    ("wrong-type", {"image_id": "1"}),
    ("wrong-type", {"image_id": 1.0}),
    ("missing-key", {"category_id": None}),
    ("wrong-type", {"iscrowd": "yes"}),
    ("wrong-type", {"area": True}),
]


@pytest.mark.parametrize("kind, fault", [*FAULTS.items(), *MORE_FAULTS])
def test_a_faulty_annotation_is_named_with_its_image_and_a_fix(check, kind, fault):
    report = check(document(annotation(**fault)))
    errors = [problem for problem in report.problems if problem.severity == "error"]
    assert [problem.kind for problem in errors] == [kind] and not report.ok
    assert errors[0].annotation_id == 5 and errors[0].fix
    assert errors[0].image_id == (fault["image_id"] if kind == "unknown-image" else errors[0].image_id)
    assert "annotation 5" in str(errors[0])
    json.dumps(report.to_dict())


@pytest.mark.parametrize("key", ["id", "image_id", "category_id", "bbox", "area"])
def test_a_missing_key_is_named(check, key):
    broken = annotation()
    del broken[key]
    (problem,) = check(document(broken)).problems
    assert problem.kind == "missing-key" and f"annotations[1]: '{key}' is missing" in problem.message


def test_iscrowd_may_be_absent(check):
    plain = annotation()
    del plain["iscrowd"]
    assert check(document(plain)).problems == ()


@pytest.mark.parametrize(
    "kind, fault",
    [
        ("box-outside", {"bbox": [20, 30, 40, 71.9]}),
        ("mask-outside", {"segmentation": [[20, 30, 60, 30, 60, 101.5]], "bbox": [20, 30, 40, 70]}),
        ("crowd-polygon", {"iscrowd": 1}),
        ("box-misfit", {"bbox": [20, 30, 60, 50]}),
        ("sliver", {"bbox": [20, 30, 40, 0], "segmentation": [[20, 30, 60, 30.4, 60, 30, 20, 30]], "area": 0}),
    ],
)
def test_what_official_coco_does_too_is_a_warning(check, tmp_path, kind, fault):
    report = check(document(annotation(**fault)))
    assert kind in [problem.kind for problem in report.problems] and report.ok
    CocoDataset(tmp_path / "instances.json", tmp_path)


def test_reaching_out_by_a_rounding_error_is_fine(check):
    assert (
        check(document(annotation(bbox=[-0.5, 30, 60.5, 70.9], segmentation=[[-0.5, 30, 60, 30, 60, 100.9]]))).problems
        == ()
    )


@pytest.mark.parametrize(
    "kind, change",
    [
        (
            "duplicate-image-id",
            {"images": [{"id": 1, "file_name": n, "height": 100, "width": 150} for n in ("1.png", "2.png")]},
        ),
        ("duplicate-annotation-id", {"annotations": [annotation(), annotation()]}),
        ("duplicate-category-id", {"categories": [{"id": 3, "name": "cat"}, {"id": 3, "name": "dog"}]}),
        ("duplicate-category-name", {"categories": [{"id": 3, "name": "cat"}, {"id": 8, "name": "cat"}]}),
        ("no-categories", {"categories": [], "annotations": []}),
        ("no-images", {"images": [], "annotations": []}),
        ("escaping-file-name", {"images": [{"id": 1, "file_name": "../1.png", "height": 100, "width": 150}]}),
        ("wrong-type", {"images": [{"id": 1, "file_name": "1.png", "height": 100, "width": -1}], "annotations": []}),
        ("missing-key", {"images": [{"id": 1, "height": 100, "width": 150}], "annotations": []}),
        ("wrong-type", {"categories": ["cat"], "annotations": []}),
        ("oversized-image", {"images": [{"id": 1, "file_name": "1.png", "height": 2**20, "width": 2**20}]}),
    ],
)
def test_faults_of_images_and_categories_stop_training(check, tmp_path, kind, change):
    report = check(document(**change))
    assert kind in {problem.kind for problem in report.problems if problem.severity == "error"}
    with pytest.raises(DataError):
        CocoDataset(tmp_path / "instances.json", tmp_path)


def test_one_file_for_two_images_is_a_warning(check):
    images = [{"id": number, "file_name": "1.png", "height": HEIGHT, "width": WIDTH} for number in (1, 2)]
    (problem,) = check(document(images=images)).problems
    assert (problem.kind, problem.severity) == ("duplicate-file-name", "warning")


def test_missing_truncated_and_resized_images_are_found_at_once(check, tmp_path):
    images = [{"id": number, "file_name": f"{number}.jpg", "height": HEIGHT, "width": WIDTH} for number in range(1, 6)]
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for number, size in ((1, (WIDTH, HEIGHT)), (2, (WIDTH, HEIGHT)), (3, (HEIGHT, WIDTH)), (4, (WIDTH, HEIGHT))):
        Image.fromarray(noise).resize(size).save(tmp_path / f"{number}.jpg")
    (tmp_path / "2.jpg").write_bytes((tmp_path / "2.jpg").read_bytes()[:-3000])
    (tmp_path / "4.jpg").write_bytes(b"<html>404 not found</html>")
    report = check(document(images=images))
    found = {problem.image_id: problem.kind for problem in report.problems}
    assert found == {2: "unreadable-image", 3: "image-size", 4: "unreadable-image", 5: "missing-image"}
    assert all(problem.file == str(tmp_path / f"{problem.image_id}.jpg") for problem in report.problems)


def test_progress_sees_every_image(check):
    seen = []

    def progress(items: Any, total: int) -> Any:
        for item in items:
            seen.append(total)
            yield item

    check(document(), progress=progress)
    assert seen == [2, 2]


@pytest.mark.parametrize("content", [[], {"images": []}, [{"score": 1.0}], {"annotation": {"folder": "VOC2012"}}])
def test_a_file_that_is_not_coco_is_a_problem_too(check, content):
    (problem,) = check(content).problems
    assert problem.kind == "annotation-file" and str(problem).count("instances.json") == 1


def test_a_missing_image_folder_is_a_problem(check, tmp_path):
    check(document())
    (problem,) = check_coco(tmp_path / "instances.json", tmp_path / "absent").problems
    assert problem.kind == "image-folder"


def test_all_kinds_of_faults_are_reported_together(check):
    annotations = [annotation(id=10 + number, **fault) for number, fault in enumerate(FAULTS.values())]
    report = check(document(*annotations))
    found = {problem.annotation_id: problem.kind for problem in report.problems if problem.severity == "error"}
    assert found == {10 + number: kind for number, kind in enumerate(FAULTS)}
    assert report.to_dict()["counts"]["errors"] == len(FAULTS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(
    section=st.sampled_from(["images", "annotations", "categories"]),
    key=st.sampled_from(
        [
            "id",
            "image_id",
            "category_id",
            "bbox",
            "area",
            "iscrowd",
            "segmentation",
            "width",
            "height",
            "file_name",
            "name",
        ]
    ),
    value=json_values,
)
def test_no_value_whatever_crashes_the_checks_or_the_reader(tmp_path_factory, section, key, value):
    """Any value in any place gives a report or a `DataError`; what passes can be decoded."""
    path = tmp_path_factory.getbasetemp() / "any.json"
    content = document(annotation())
    content[section][0] = content[section][0] | {key: value}
    path.write_text(json.dumps(content))
    report = check_coco(path, path.parent)
    json.dumps(report.to_dict())
    rules_broken = any(problem.severity == "error" and Path(problem.file) == path for problem in report.problems)
    if rules_broken:
        with pytest.raises(DataError):
            CocoDataset(path, path.parent)
    else:
        dataset = CocoDataset(path, path.parent)
        assert (
            sum(len(dataset.instances(index)) for index in range(len(dataset)))
            + dataset.left_out.get("boxes without area", 0)
            == 2
        )


@pytest.mark.parametrize("key", ["iscrowd", "segmentation"])
def test_an_explicit_null_means_what_an_absent_key_means(check, tmp_path, key):
    rows = [annotation(**{key: None})]
    check(document(annotations=rows))
    absent = [{name: value for name, value in rows[0].items() if name != key}]
    assert [one.message for one in check(document(annotations=rows)).problems] == [
        one.message for one in check(document(annotations=absent)).problems
    ]


def turned(path: Path) -> None:
    """A picture that is stored as the images of `document` are, and shown upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, exif=exif)


@pytest.mark.parametrize(
    ("box", "severity", "advice"),
    [([20, 30, 40, 20], "warning", "make sure that"), ([20, 30, 40, 100], "error", "swap width and height of these")],
)
def test_orientations_that_are_passed_over_are_counted(check, tmp_path, box, severity, advice):
    check(document())
    turned(tmp_path / "1.png")
    rows = [annotation(bbox=box, segmentation=None, area=box[2] * box[3])]
    report = check(document(annotations=rows))
    (finding,) = [one for one in report.problems if one.kind == "turned-images"]
    assert finding.severity == severity and finding.message.startswith("1 images (1.png, ...) carry an EXIF")
    assert finding.fix.startswith(advice)
    images = [{"id": 1, "file_name": "1.png", "height": WIDTH, "width": HEIGHT}]
    assert "turned-images" not in {one.kind for one in check(document(images=images, annotations=rows)).problems}
