"""Top-1 and top-5: scikit-learn's numbers, on one and two ranks, and from files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.ranks import on_two_ranks
from swin_dense.errors import DataError
from swin_dense.metrics import Accuracy, evaluate_predicted_classes

IMAGE_IDS = [3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377]
NAMES = [f"class {number}" for number in range(9)]  # the last of them never occurs


def scores_and_label(image_id: int) -> tuple[torch.Tensor, int]:
    random = torch.Generator().manual_seed(image_id)
    label = int(torch.randint(0, 8, (), generator=random))
    scores = torch.rand(9, generator=random)
    scores[label] += 0.6
    return scores, label


def metric_of(image_ids: list[int], handed_in: list[int]) -> Accuracy:
    metric = Accuracy(NAMES, image_ids)
    for image_id in handed_in:
        scores, label = scores_and_label(image_id)
        metric.update([image_id], scores[None], [label])
    return metric


def test_the_numbers_are_those_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    scores, labels = zip(*map(scores_and_label, IMAGE_IDS), strict=True)
    found = metric_of(IMAGE_IDS, IMAGE_IDS)
    result = found.compute()
    for k in (1, 5):
        expected = sklearn.top_k_accuracy_score(labels, torch.stack(scores).numpy(), k=k, labels=list(range(9)))
        assert result[f"top{k}"] == pytest.approx(expected) and 0.2 < expected < 1
    surest = [int(one.argmax()) for one in scores]
    assert (found.confusion() == sklearn.confusion_matrix(labels, surest, labels=list(range(9)))).all()
    absent = result["per_class"]["class 8"]
    assert math.isnan(absent["accuracy"]) and absent["images"] == 0
    assert sum(one["images"] for one in result["per_class"].values()) == len(IMAGE_IDS)


def test_many_classes_need_no_matrix_of_them() -> None:
    count = 200_000  # of which a matrix takes 320 GB
    metric = Accuracy([str(number) for number in range(count)], [1, 2, 3])
    scores = torch.zeros(3, count)
    scores[:2, 7], scores[2, 9] = 1.0, 1.0
    metric.update([1, 2, 3], scores, [7, 9, 9])
    found = metric.compute()
    assert found["top1"] == pytest.approx(2 / 3)
    assert found["per_class"]["9"] == {"accuracy": 0.5, "images": 2, "taken_for": {"7": 1}}


def test_of_equally_sure_classes_the_first_comes_first() -> None:
    metric = Accuracy(NAMES, [1, 2])
    metric.update([1, 2], torch.ones(2, 9), [0, 5])
    assert (metric.compute()["top1"], metric.compute()["top5"]) == (0.5, 0.5)


def test_results_name_the_surest_classes_of_each_file() -> None:
    metric = Accuracy(["cat", "dog"], [1, 2])
    metric.update([2, 1], torch.tensor([[0.25, 0.75], [0.5, 0.5]]), [0, 0], ["b.jpg", "a.jpg"])
    assert metric.results() == [
        {"file_name": "a.jpg", "classes": ["cat", "dog"], "probabilities": [0.5, 0.5]},
        {"file_name": "b.jpg", "classes": ["dog", "cat"], "probabilities": [0.75, 0.25]},
    ]


@pytest.mark.parametrize(
    ("image_ids", "scores", "labels", "message"),
    [
        ([1], torch.rand(1, 9), [9], "the class 9 is not among 0..8"),
        ([7], torch.rand(1, 9), [0], "image 7 is not among"),
        ([1], torch.full((1, 9), math.nan), [0], "not numbers"),
        ([1], torch.rand(1, 8), [0], r"scores \(1, 8\)"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    image_ids: list[int], scores: torch.Tensor, labels: list[int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Accuracy(NAMES, [1]).update(image_ids, scores, labels)


def test_two_ranks_score_as_one_and_an_image_that_both_saw_counts_once(tmp_path: Path) -> None:
    expected = metric_of(IMAGE_IDS, IMAGE_IDS)
    for answer in on_two_ranks(work, tmp_path / "store"):
        assert answer["scores"] == str(expected.compute()) and answer["confusion"] == expected.confusion().tolist()
        assert "5 of 11 images to score were never seen, the first is 5" in answer["incomplete"]


def work(rank: int) -> dict[str, Any]:
    metric = metric_of(IMAGE_IDS, [*IMAGE_IDS, IMAGE_IDS[0]][rank::2])
    answer = {"scores": str(metric.compute()), "confusion": metric.confusion().tolist()}
    try:
        metric_of(IMAGE_IDS, [] if rank else IMAGE_IDS[::2]).compute()
    except DataError as error:
        answer["incomplete"] = str(error)
    return answer


class TestFiles:
    def test_a_prediction_counts_for_one_image(self, tmp_path: Path) -> None:
        (tmp_path / "found.json").write_text(json.dumps([{"file_name": "/x/cat/1.jpg", "classes": ["cat"]}]))
        for truth, message in (
            ("cat/1.jpg cat\ndog/1.jpg dog\n", "1 of 2 images cannot be scored\n.*dog/1.jpg: no prediction"),
            ("cat/1.jpg cat\nx/cat/1.jpg dog\n", "x/cat/1.jpg: its prediction, /x/cat/1.jpg, is another's, too"),
        ):
            (tmp_path / "truth.txt").write_text(truth)
            with pytest.raises(DataError, match=message):
                evaluate_predicted_classes(tmp_path / "truth.txt", tmp_path / "found.json")
        (tmp_path / "truth.txt").write_text("elsewhere/1.jpg dog\n")  # the only one of its name
        assert evaluate_predicted_classes(tmp_path / "truth.txt", tmp_path / "found.json")["top1"] == 0.0

    @pytest.mark.parametrize("suffix", [".jpg", ".MP4"])
    def test_folders_of_images_or_videos_are_the_truth_of_what_was_predicted(self, tmp_path: Path, suffix: str) -> None:
        rows = []
        for name, said in (("cat/1", "cat"), ("cat/2", "dog"), ("dog/1", "dog")):
            path = tmp_path / "truth" / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            rows.append({"file_name": str(path), "classes": [said]})
        (tmp_path / "truth" / "cat" / ("notes.txt" if suffix == ".jpg" else "cover.jpg")).touch()
        (tmp_path / "found.json").write_text(json.dumps(rows))
        scores = evaluate_predicted_classes(tmp_path / "truth", tmp_path / "found.json")
        assert scores["top1"] == pytest.approx(2 / 3) and scores["per_class"]["cat"]["taken_for"] == {"dog": 1}
        (tmp_path / "truth" / "dog" / f"2{suffix}").touch()
        with pytest.raises(DataError, match="1 of 4 images cannot be scored"):
            evaluate_predicted_classes(tmp_path / "truth", tmp_path / "found.json")
        (tmp_path / "truth" / f"3{suffix}").touch()  # and in no folder
        kind = "images" if suffix == ".jpg" else "videos"
        with pytest.raises(DataError, match=rf"3{suffix}: lies in no folder of a class; .* of {kind} for each class"):
            evaluate_predicted_classes(tmp_path / "truth", tmp_path / "found.json")

    def test_predictions_are_scored_against_a_list_of_labels(self, tmp_path: Path) -> None:
        (tmp_path / "truth.txt").write_text("a.jpg 0\nsub/b c.jpg 1\nd.jpg\tdog\n")
        (tmp_path / "names.txt").write_text("n00000001 cat\nn00000002 dog\nn00000003 cow\n")
        rows = [
            {"file_name": "/x/a.jpg", "classes": ["cat", "dog"]},
            {"file_name": "/x/b c.jpg", "classes": ["cat", "dog"]},
            {"file_name": "/x/d.jpg", "classes": ["dog", "cow"]},
        ]
        (tmp_path / "found.json").write_text(json.dumps(rows))
        lines = ["file_name,class1,probability1,class2,probability2"]
        lines += [f"{row['file_name']},{row['classes'][0]},0.6,{row['classes'][1]},0.4" for row in rows]
        (tmp_path / "found.csv").write_text("\n".join(lines))
        for name in ("found.json", "found.csv"):
            scores = evaluate_predicted_classes(tmp_path / "truth.txt", tmp_path / name, classes=tmp_path / "names.txt")
            assert (scores["top1"], scores["top5"]) == (2 / 3, 1.0)
            assert scores["per_class"]["dog"]["taken_for"] == {"cat": 1}
        with pytest.raises(DataError, match="labels are numbers; name a file"):
            evaluate_predicted_classes(tmp_path / "truth.txt", tmp_path / "found.csv")
        (tmp_path / "found.json").write_text(json.dumps(rows[:2]))
        with pytest.raises(DataError, match=r"d.jpg: no prediction"):
            evaluate_predicted_classes(tmp_path / "truth.txt", tmp_path / "found.json", classes=tmp_path / "names.txt")
