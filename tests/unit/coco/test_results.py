import json
import zipfile

import pytest
from pycocotools import mask as rle_codec

from swin_dense.errors import DataError
from swin_dense.metrics import ENGINES, evaluate_coco_files


@pytest.fixture
def files(scene, tmp_path):
    """The scene as a file, and a function that writes predictions beside it."""
    truth, predictions = tmp_path / "truth.json", tmp_path / "predictions.json"
    truth.write_text(json.dumps(scene))

    def write(content):
        predictions.write_text(content if isinstance(content, str) else json.dumps(content))
        return truth, predictions

    return write


@pytest.fixture
def rows(scene):
    """The scene's objects as result rows with boxes and masks."""
    return [
        {
            "image_id": one["image_id"],
            "category_id": one["category_id"],
            "bbox": one["bbox"],
            "segmentation": {
                "size": [100, 120],
                "counts": rle_codec.frPyObjects(one["segmentation"], 100, 120)[0]["counts"].decode(),
            },
            "score": 0.5,
        }
        for one in scene["annotations"]
    ]


def without(rows, key):
    return [{name: value for name, value in row.items() if name != key} for row in rows]


def test_rows_are_scored_on_all_that_they_hold(files, rows):
    assert list(evaluate_coco_files(*files(rows))) == ["bbox", "segm"]
    assert list(evaluate_coco_files(*files(without(rows, "segmentation")))) == ["bbox"]
    assert list(evaluate_coco_files(*files(without(rows, "bbox")))) == ["segm"]


def test_boxes_are_taken_from_masks_only_when_asked_for(files, rows):
    results = evaluate_coco_files(*files(without(rows, "bbox")), iou_types=("bbox",))
    assert list(results) == ["bbox"]
    assert results["bbox"]["AP"] == pytest.approx(1)


def test_masks_are_not_made_of_boxes(files, rows):
    with pytest.raises(DataError, match="no 'segmentation' to score masks on"):
        evaluate_coco_files(*files(without(rows, "segmentation")), iou_types=("segm",))


def test_box_predictions_need_no_masks_in_the_ground_truth(scene, files, rows, tmp_path):
    _, predictions = files(without(rows, "segmentation"))
    scene["annotations"] = without(scene["annotations"], "segmentation")
    (tmp_path / "boxes.json").write_text(json.dumps(scene))
    assert evaluate_coco_files(tmp_path / "boxes.json", predictions)["bbox"]["AP"] == pytest.approx(1)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_predictions_score_zero_on_all_that_the_ground_truth_holds(scene, files, tmp_path, engine):
    truth, predictions = files([])
    assert {kind: one["AP"] for kind, one in evaluate_coco_files(truth, predictions, engine=engine).items()} == {
        "bbox": 0.0,
        "segm": 0.0,
    }
    assert list(evaluate_coco_files(truth, predictions, iou_types=("segm",))) == ["segm"]
    del scene["annotations"][1]["segmentation"]
    truth.write_text(json.dumps(scene))
    assert {kind: one["AP"] for kind, one in evaluate_coco_files(truth, predictions).items()} == {"bbox": 0.0}


def test_shards_without_predictions_are_no_hindrance(files, rows, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "rank0.json").write_text("[]")
    (folder / "rank1.json").write_text(json.dumps(rows))
    assert evaluate_coco_files(files([])[0], folder) == evaluate_coco_files(*files(rows))


def test_the_shards_of_a_folder_make_one_evaluation(files, rows, tmp_path):
    whole = evaluate_coco_files(*files(rows[:2]))
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "rank0.json").write_text(json.dumps(rows[:1]))
    (folder / "rank1.json").write_text(json.dumps(rows[1:2]))
    assert evaluate_coco_files(tmp_path / "truth.json", folder) == whole
    (folder / "rank2.json").write_text(json.dumps(rows[1:]))
    with pytest.raises(DataError, match=r"rank2\.json: image 30 has predictions in .*rank1\.json too"):
        evaluate_coco_files(tmp_path / "truth.json", folder)


def test_an_empty_folder_is_named(files, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no result file"):
        evaluate_coco_files(files([])[0], tmp_path / "empty")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not a JSON file"),
        ('[{"image_id": 1},', "not a JSON file"),
        ('{"annotations": []}', "holds a dict, not a list of predictions"),
        ("[[1, 2, 3]]", "item 0: is not an object"),
        ('[{"image_id": 10, "category_id": 7, "score": 1}]', "item 0 has neither"),
        ('[{"image_id": 10, "category_id": 7, "score": 1, "bbox": []}]', "item 0 has neither"),
    ],
)
def test_a_file_that_is_no_result_file_is_named(files, content, reason):
    with pytest.raises(DataError, match=reason) as error:
        evaluate_coco_files(*files(content))
    assert "predictions.json" in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("image_id", 11, r"image_id 11 is not in .*truth\.json"),
        ("image_id", "30", r"image_id '30' is not in .*truth\.json"),
        ("image_id", 30.0, r"image_id 30\.0 is not in"),
        ("image_id", [30], r"image_id \[30\] is not in"),
        ("category_id", 1, r"category_id 1 is not in .*truth\.json"),
        ("category_id", True, "category_id True is not in"),
        ("score", float("nan"), "score nan is not a finite number"),
        ("score", None, "score None is not"),
        ("score", 10**400, "is not a finite number"),
        ("bbox", [1, 2, 3], "is not four finite numbers"),
        ("bbox", [1, 2, 3, float("inf")], "is not four finite numbers"),
        ("bbox", [1, 2, -3, 4], "is not four finite numbers"),
        ("bbox", "1 2 3 4", "is not four finite numbers"),
        ("segmentation", [[1, 2, 3, 4, 5, 6]], "is not a compressed RLE"),
        ("segmentation", {"size": [100, 120], "counts": [12000]}, "is not a compressed RLE"),
        (
            "segmentation",
            {"size": [120, 100], "counts": "1"},
            r"its mask is of size \[120, 100\], image 30 of \[100, 120\]",
        ),
        ("segmentation", {"size": [100, 120], "counts": "1P"}, "is no mask: its counts break off"),
        ("segmentation", {"size": [100, 120], "counts": "é"}, "is no mask: its counts are not"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_item(files, rows, key, value, reason):
    rows[1][key] = value
    with pytest.raises(DataError, match=reason) as error:
        evaluate_coco_files(*files(rows))
    assert "predictions.json" in str(error.value)
    assert "item 1:" in str(error.value)


def test_every_row_has_to_hold_the_same(files, rows):
    rows[2] = without(rows, "bbox")[2]
    with pytest.raises(DataError, match="item 2 can be scored on"):
        evaluate_coco_files(*files(rows))


def test_all_wrong_rows_are_reported_at_once(files, rows):
    for row in rows[1:]:
        row["score"] = None
    with pytest.raises(DataError, match=r"2 prediction\(s\) cannot be scored") as error:
        evaluate_coco_files(*files(rows))
    assert [problem.split(":")[0] for problem in error.value.problems] == ["item 1", "item 2"]


def named(scene, rows, *names):
    """The scene with names for its images 10 and 30, and the rows as `predict` writes them: with positions as ids."""
    for image, name in zip(scene["images"], ("a.jpg", "sub/b.jpg"), strict=True):
        image["file_name"] = name
    positions = {10: 0, 30: 1}
    return [
        row | {"file_name": names[positions[row["image_id"]]], "image_id": positions[row["image_id"]]} for row in rows
    ]


@pytest.mark.parametrize(
    "names", [("a.jpg", "sub/b.jpg"), ("/data/val/a.jpg", "../val/sub/b.jpg"), ("v\\a.jpg", "b.jpg")]
)
def test_rows_of_predict_are_joined_by_file_name(scene, files, rows, names, caplog):
    truth, predictions = files(named(scene, rows, *names))
    truth.write_text(json.dumps(scene))
    assert evaluate_coco_files(truth, predictions)["bbox"]["AP"] == pytest.approx(1)
    assert "rows are joined by file_name" in caplog.text


def test_positions_that_are_ids_of_other_images_are_joined_too(scene, files, rows):
    for one in (*scene["images"], *scene["annotations"]):
        key = "id" if "height" in one else "image_id"
        one[key] = {10: 1, 30: 0}[one[key]]  # the very ids that positions are, the other way round
    truth, predictions = files(named(scene, rows, "a.jpg", "sub/b.jpg"))
    truth.write_text(json.dumps(scene))
    assert evaluate_coco_files(truth, predictions)["bbox"]["AP"] == pytest.approx(1)


@pytest.mark.parametrize("names", [("a.jpg", "other.jpg"), ("a.jpg", "c/b.jpg"), ("a.jpg", None)])
def test_rows_that_belong_to_no_image_are_refused_with_the_first(scene, files, rows, names):
    truth, predictions = files(named(scene, rows, *names))
    truth.write_text(json.dumps(scene))
    with pytest.raises(DataError, match=r"item 0 is of the file 'a\.jpg', but image 0 in .* does not exist"):
        evaluate_coco_files(truth, predictions)


def test_ids_count_where_file_names_agree_or_are_not_known(scene, files, rows, caplog):
    ours = [row | {"file_name": "x/a.jpg" if row["image_id"] == 10 else "sub/b.jpg"} for row in rows]
    truth, predictions = files(ours)
    assert evaluate_coco_files(truth, predictions)["bbox"]["AP"] == pytest.approx(1)  # the scene names no files
    named(scene, rows, "", "")
    truth.write_text(json.dumps(scene))
    assert evaluate_coco_files(truth, predictions)["bbox"]["AP"] == pytest.approx(1)
    assert "joined" not in caplog.text


def test_frames_of_a_video_are_no_single_image(files, rows):
    """`predict` gives all of them the position of the file, which may be the id of an image without a name."""
    frames = {image: frame for frame, image in enumerate(sorted({row["image_id"] for row in rows}))}
    ours = [row | {"file_name": "clip.mp4", "frame": frames[row["image_id"]]} for row in rows]
    assert evaluate_coco_files(*files(ours))["bbox"]["AP"] == pytest.approx(1)  # with ids of their own
    truth, predictions = files([row | {"image_id": rows[0]["image_id"]} for row in ours])
    with pytest.raises(DataError, match=r"predictions\.json: frames of a video have one image_id"):
        evaluate_coco_files(truth, predictions)


def with_names(scene, rows):
    """The rows as `predict` writes them: with the names of their categories."""
    names = {one["id"]: one["name"] for one in scene["categories"]}
    return [row | {"category": names[row["category_id"]]} for row in rows]


@pytest.mark.parametrize("move", [lambda ids: ids[1:] + ids[:1], lambda ids: [one + 1 for one in ids]])
def test_rows_of_predict_are_joined_by_the_name_of_their_category(scene, files, rows, move, caplog):
    """A model may have been trained on data that gave the same classes other ids, among them those of other classes."""
    ids = [one["id"] for one in scene["categories"]]
    moved = dict(zip(ids, move(ids), strict=True))
    ours = [row | {"category_id": moved[row["category_id"]]} for row in with_names(scene, rows)]
    assert evaluate_coco_files(*files(ours))["bbox"]["AP"] == pytest.approx(1)
    assert "rows are joined by category" in caplog.text


def test_rows_of_another_category_with_the_same_id_are_refused(scene, files, rows):
    ours = [row | {"category": "other"} for row in rows]
    with pytest.raises(DataError, match=r"category 'other' have the category_id \d+, which is '.*' in .*truth"):
        evaluate_coco_files(*files(ours))


def test_ids_of_categories_count_where_names_agree(scene, files, rows, caplog):
    assert evaluate_coco_files(*files(with_names(scene, rows)))["bbox"]["AP"] == pytest.approx(1)
    assert "joined" not in caplog.text


def test_the_ground_truth_may_lie_in_a_zip_file(scene, files, rows, tmp_path):
    _, predictions = files(rows)
    with zipfile.ZipFile(tmp_path / "annotations.zip", "w") as file:
        file.writestr("annotations/gt.json", json.dumps(scene))
    results = evaluate_coco_files(tmp_path / "annotations.zip/annotations/gt.json", predictions)
    assert results["segm"]["AP"] == pytest.approx(1)
