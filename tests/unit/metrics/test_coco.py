import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from swin_dense.errors import DataError
from swin_dense.metrics import COCO_METRICS, ENGINES, CocoMetric, evaluate_coco_files

CATEGORIES = [7, 3]  # label 0 is "cat", label 1 is "dog"


@pytest.fixture
def perfect(detections_of):
    """What a perfect detector finds in the scene: image ids and detections."""
    first = detections_of([[10, 20, 40, 40]], [0.9], [0])
    second = detections_of([[5, 5, 50, 50], [60, 50, 40, 30]], [0.8, 0.7], [0, 1])
    return [10, 30], [first, second]


@pytest.mark.parametrize("engine", ENGINES)
class TestScores:
    def test_perfect_detections_score_one(self, scene, perfect, engine):
        metric = CocoMetric(scene, category_ids=CATEGORIES, engine=engine)
        metric.update(*perfect)
        results = metric.compute()
        assert list(results) == ["bbox", "segm"]
        for scores in results.values():
            assert list(scores) == [*COCO_METRICS, "per_class"]
            assert scores["AP"] == pytest.approx(1)
            assert scores["per_class"] == pytest.approx({"cat": 1, "dog": 1})

    def test_scores_that_can_be_counted_by_hand(self, scene, detections_of, engine):
        metric = CocoMetric(scene, category_ids=CATEGORIES, engine=engine)
        # One of two cats is found (recall 0.5 at precision 1: 51 of 101 recall thresholds); before the dog that is
        # found comes a false one (precision 0.5 at every recall).
        metric.update([10], [detections_of([[10, 20, 40, 40], [80, 80, 20, 20]], [0.9, 0.8], [0, 1])])
        metric.update([30], [detections_of([[60, 50, 40, 30]], [0.7], [1])])
        for scores in metric.compute().values():
            assert scores["per_class"] == pytest.approx({"cat": 51 / 101, "dog": 0.5})
            assert scores["AP"] == pytest.approx((51 / 101 + 0.5) / 2)
            assert scores["AR100"] == pytest.approx((0.5 + 1) / 2)
            assert scores["APs"] == scores["APl"] == -1.0

    def test_an_image_without_predictions_counts(self, scene, perfect, detections_of, engine):
        metric = CocoMetric(scene, category_ids=CATEGORIES, engine=engine)
        metric.update(perfect[0], [perfect[1][0], detections_of([], [], [])])
        assert metric.compute()["segm"]["per_class"] == pytest.approx({"cat": 51 / 101, "dog": 0})

    def test_no_prediction_at_all_scores_zero(self, scene, detections_of, engine):
        metric = CocoMetric(scene, category_ids=CATEGORIES, engine=engine)
        metric.update([10, 30], [detections_of([], [], [])] * 2)
        assert [metric.compute()[iou_type]["AP"] for iou_type in ("bbox", "segm")] == [0.0, 0.0]

    def test_annotation_ids_from_zero_are_matched_like_any_other(self, scene, perfect, engine):
        for annotation in scene["annotations"]:
            annotation["id"] -= 1
        metric = CocoMetric(scene, category_ids=CATEGORIES, engine=engine)
        metric.update(*perfect)
        assert metric.compute()["bbox"]["per_class"] == pytest.approx({"cat": 1, "dog": 1})

    def test_a_class_without_ground_truth_has_no_score_and_no_share_in_the_mean(self, scene, perfect, engine):
        scene["categories"].append({"id": 5, "name": "horse"})
        metric = CocoMetric(scene, category_ids=[*CATEGORIES, 5], engine=engine)
        metric.update(*perfect)
        scores = metric.compute()["bbox"]
        assert scores["AP"] == pytest.approx(1)
        assert scores["per_class"]["horse"] == -1.0
        json.dumps(scores, allow_nan=False)

    def test_nothing_is_printed(self, scene, perfect, engine, capfd):
        metric = CocoMetric(scene, category_ids=CATEGORIES, engine=engine)
        metric.update(*perfect)
        metric.compute()
        assert capfd.readouterr() == ("", "")


def test_both_engines_give_the_same_figures_whatever_the_order_of_images(scene, detections_of):
    random = np.random.default_rng(0)
    found = {}
    for image_id in (10, 30):
        boxes = np.concatenate([random.integers(0, 40, (30, 2)), random.integers(20, 60, (30, 2))], axis=1).tolist()
        # Few distinct scores: ties within an image and between images decide the metrics.
        found[image_id] = detections_of(boxes, random.integers(0, 4, 30) / 4, random.integers(0, 2, 30))
    answers = []
    for engine in ENGINES:
        for order in ([10, 30], [30, 10]):
            metric = CocoMetric(scene, category_ids=CATEGORIES, engine=engine)
            for image_id in order:
                metric.update([image_id], [found[image_id]])
            answers.append(metric.compute())
    assert 0 < answers[0]["segm"]["AP"] < 1
    for answer in answers[1:]:
        for iou_type, scores in answer.items():
            per_class = answers[0][iou_type].pop("per_class")
            assert scores.pop("per_class") == pytest.approx(per_class, abs=1e-12)
            assert scores == pytest.approx(answers[0][iou_type], abs=1e-12)
            answers[0][iou_type]["per_class"] = per_class


def test_result_rows_written_to_a_file_score_the_same(scene, detections_of, tmp_path):
    metric = CocoMetric(scene, category_ids=CATEGORIES)
    first = detections_of([[11, 22, 40, 40], [50, 50, 30, 30]], [0.6, 0.9], [0, 1])
    metric.update([30, 10], [detections_of([[58, 52, 40, 30]], [0.7], [1]), first])
    rows = metric.results()
    assert [(row["image_id"], row["category_id"], row["bbox"]) for row in rows] == [
        (10, 7, [11, 22, 40, 40]),
        (10, 3, [50, 50, 30, 30]),
        (30, 3, [58, 52, 40, 30]),
    ]
    (tmp_path / "truth.json").write_text(json.dumps(scene))
    (tmp_path / "results.json").write_text(json.dumps(rows))
    assert evaluate_coco_files(tmp_path / "truth.json", tmp_path / "results.json") == metric.compute()
    assert 0.1 < metric.compute()["segm"]["AP"] < 0.9


def test_the_truth_is_read_from_a_file_too(scene, perfect, tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(scene))
    metric = CocoMetric(tmp_path / "truth.json", category_ids=CATEGORIES)
    metric.update(*perfect)
    assert metric.compute()["bbox"]["AP"] == pytest.approx(1)


def test_mask_results_are_small_or_large_by_their_masks(scene, detections_of):
    """A detection whose box is large and whose mask is small is small where masks are scored."""
    for annotation, side in zip(scene["annotations"], (10, 40, 40), strict=True):
        x, y = annotation["bbox"][:2]
        annotation |= {"bbox": [x, y, side, side], "area": side * side}
        annotation["segmentation"] = [[x, y, x + side, y, x + side, y + side, x, y + side]]
    metric = CocoMetric(scene, category_ids=CATEGORIES)
    mask_elsewhere = detections_of([[90, 60, 5, 5], [10, 20, 10, 10]], [0.9, 0.8], [0, 0])
    boxes = torch.tensor([[0.0, 0, 100, 100], [10, 20, 20, 30]])
    metric.update([10, 30], [replace(mask_elsewhere, boxes=boxes), detections_of([], [], [])])
    results = metric.compute()
    assert results["bbox"]["APs"] == pytest.approx(1)  # the false detection is large: ignored among the small
    assert results["segm"]["APs"] == pytest.approx(0.5)  # its mask is small: it counts, before the right one


@pytest.mark.parametrize("iou_types", [("bbox",), ("bbox", "segm")])
def test_the_names_of_the_figures_are_known_before_anything_is_scored(scene, perfect, iou_types):
    metric = CocoMetric(scene, category_ids=CATEGORIES, iou_types=iou_types)
    names = metric.metric_names
    metric.update(*perfect)
    results = metric.compute()
    assert names == tuple(f"{kind}_{name}" for kind in results for name in results[kind] if name != "per_class")


def test_box_only_detectors_are_scored_on_boxes(scene, detections_of):
    metric = CocoMetric(scene, category_ids=CATEGORIES, iou_types=("bbox",))
    boxes = [[5, 5, 50, 50], [60, 50, 40, 30]]
    metric.update([10, 30], [detections_of([], [], [], size=None), detections_of(boxes, [0.8, 0.7], [0, 1], size=None)])
    assert list(metric.compute()) == ["bbox"]
    assert "segmentation" not in metric.results()[0]


def test_half_precision_and_gradients_do_no_harm(scene, perfect):
    image_ids, found = perfect
    metric = CocoMetric(scene, category_ids=CATEGORIES)
    halves = [replace(one, boxes=one.boxes.bfloat16(), scores=one.scores.half().requires_grad_()) for one in found]
    metric.update(image_ids, halves)
    assert metric.compute()["segm"]["AP"] == pytest.approx(1)


class TestCoverage:
    def test_an_evaluation_that_missed_images_is_refused(self, scene, perfect):
        metric = CocoMetric(scene, category_ids=CATEGORIES)
        metric.update([30], perfect[1][1:])
        with pytest.raises(DataError, match="1 of 2 images to score were never seen, the first is 10"):
            metric.compute()

    def test_nothing_seen_is_never_a_score(self, scene):
        with pytest.raises(DataError, match="2 of 2 images"):
            CocoMetric(scene, category_ids=CATEGORIES).compute()

    def test_a_restriction_named_beforehand_scores_those_images_alone(self, scene, perfect):
        metric = CocoMetric(scene, category_ids=CATEGORIES, image_ids=[30])
        metric.update([30], perfect[1][1:])
        assert metric.compute()["bbox"]["per_class"] == pytest.approx({"cat": 1, "dog": 1})
        with pytest.raises(DataError, match="image 10 is not among the images to score"):
            metric.update([10], perfect[1][:1])

    def test_ground_truth_of_other_categories_is_left_out(self, scene, detections_of):
        metric = CocoMetric(scene, category_ids=[3])
        metric.update([10, 30], [detections_of([], [], []), detections_of([[60, 50, 40, 30]], [0.7], [0])])
        assert metric.compute()["bbox"]["per_class"] == pytest.approx({"dog": 1})

    def test_reset_begins_a_new_evaluation(self, scene, perfect):
        metric = CocoMetric(scene, category_ids=CATEGORIES)
        metric.update(*perfect)
        with pytest.raises(DataError, match="image 10 has been handed in already; reset"):
            metric.update(*perfect)
        metric.reset()
        metric.update(*perfect)
        assert len(metric.results()) == 3


class TestWrongDetections:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"scores": torch.tensor([0.8, torch.nan])}, "detection 1 has a score that is not finite"),
            ({"boxes": torch.tensor([[0, 0, torch.inf, 1], [0, 0, 1, 1]])}, "detection 0 has a box that is not finite"),
            ({"boxes": torch.tensor([[5.0, 0, 4, 1], [0, 0, 1, 1]])}, "detection 0 has a box whose x2 < x1"),
            ({"labels": torch.tensor([0, 2])}, r"detection 1 has a label outside 0\.\.1"),
            ({"labels": torch.tensor([-1, 0])}, r"detection 0 has a label outside 0\.\.1"),
            ({"labels": torch.tensor([0.0, 1.0])}, "labels are float32"),
            ({"scores": torch.tensor([0.8])}, "shapes of boxes"),
            ({"masks": None}, "it has 0 masks for 2 boxes"),
            ({"masks": []}, "it has 0 masks for 2 boxes"),
            ({"masks": [{"size": [120, 100], "counts": b"1"}] * 2}, r"mask 0 is of size \[120, 100\]"),
            ({"masks": [{"size": [100, 120], "counts": b"1"}] * 2}, "mask 1 is malformed: its runs cover 1 pixels"),
        ],
    )
    def test_are_refused_with_image_and_detection(self, scene, perfect, change, reason):
        metric = CocoMetric(scene, category_ids=CATEGORIES)
        with pytest.raises(DataError, match=reason) as error:
            metric.update([30], [replace(perfect[1][1], **change)])
        assert "image 30" in str(error.value)

    def test_an_image_that_the_annotations_lack_is_refused(self, scene, perfect):
        with pytest.raises(DataError, match="image 11 does not exist"):
            CocoMetric(scene, category_ids=CATEGORIES).update([11], perfect[1][:1])

    def test_every_image_needs_its_detections(self, scene, perfect):
        with pytest.raises(DataError, match="2 image ids came with the detections of 1 images"):
            CocoMetric(scene, category_ids=CATEGORIES).update([10, 30], perfect[1][:1])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"category_ids": [7, 4]}, "not distinct ones of this file"),
        ({"category_ids": [7, 7]}, "not distinct ones of this file"),
        ({"category_ids": []}, "not distinct ones of this file"),
        ({"class_names": ["dog", "cat"]}, "are named .* not"),
        ({"image_ids": [30, 31]}, r"no such images to score: \[31\]"),
        ({"image_ids": []}, "names none"),
        ({"engine": "detectron"}, "valid: faster-coco-eval, hotcoco, pycocotools"),
        ({"iou_types": ("bbox", "keypoints")}, "has to hold"),
        ({"iou_types": ()}, "has to hold"),
    ],
)
def test_a_metric_that_could_only_be_wrong_is_refused_at_once(scene, arguments, reason):
    with pytest.raises(DataError, match=reason):
        CocoMetric(scene, **{"category_ids": CATEGORIES, **arguments})
