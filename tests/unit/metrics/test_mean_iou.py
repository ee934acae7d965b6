"""Mean IoU of a data set: counted by hand, each image once, with every fault named."""

import math

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from swin_dense.errors import DataError
from swin_dense.metrics import MeanIoU, mean_iou

IGNORED = 255
NAMES = ["sky", "road", "tree", "ship"]


def maps(*rows):
    return torch.tensor(rows, dtype=torch.uint8)


TRUTH = maps([0, 0, 0, 1], [1, 1, 255, 255])
PREDICTED = maps([0, 0, 1, 1], [1, 2, 3, 0])  # what is predicted on ignored pixels does not count


def scored(predicted=PREDICTED, truth=TRUTH, **options):
    metric = MeanIoU(NAMES, [7], ignore_index=IGNORED, **options)
    metric.update([7], [predicted], [truth])
    return metric


def test_the_metrics_are_those_counted_by_hand():
    scores = scored().compute()
    assert scores["aAcc"] == pytest.approx(100 * 4 / 6)
    per_class = scores["per_class"]
    assert list(per_class) == NAMES
    assert per_class["sky"] == pytest.approx({"IoU": 100 * 2 / 3, "Acc": 100 * 2 / 3})
    assert per_class["road"] == pytest.approx({"IoU": 100 * 2 / 4, "Acc": 100 * 2 / 3})
    assert per_class["tree"]["IoU"] == 0  # predicted, though it is not there: an IoU, but no accuracy
    assert math.isnan(per_class["tree"]["Acc"])
    assert math.isnan(per_class["ship"]["IoU"]) and math.isnan(per_class["ship"]["Acc"])
    assert scores["mIoU"] == pytest.approx((100 * 2 / 3 + 100 * 2 / 4 + 0) / 3)
    assert scores["mAcc"] == pytest.approx(100 * 2 / 3)


def test_the_names_of_the_metrics_are_known_before_anything_is_scored():
    assert MeanIoU(NAMES, [7], ignore_index=IGNORED).metric_names == tuple(scored().compute())[:-1]


def test_the_confusion_matrix_has_the_truth_in_its_rows():
    expected = np.zeros((4, 4), dtype=np.int64)
    expected[0, 0], expected[0, 1], expected[1, 1], expected[1, 2] = 2, 1, 2, 1
    matrix = scored().confusion()
    assert matrix.dtype == np.int64
    assert (matrix == expected).all()


def test_the_data_set_is_scored_as_a_whole_and_not_image_by_image():
    metric = MeanIoU(["a", "b"], [1, 2], ignore_index=IGNORED)
    metric.update([1], [maps([0, 0, 0, 0])], [maps([0, 0, 0, 0])])
    metric.update([2], [maps([0, 1])], [maps([1, 0])])
    scores = metric.compute()
    assert scores["per_class"]["a"]["IoU"] == pytest.approx(100 * 4 / 6)  # the mean of both images would be 50
    assert scores["aAcc"] == pytest.approx(100 * 4 / 6)


def test_an_image_that_is_handed_in_twice_counts_once_as_the_last_time():
    metric = MeanIoU(NAMES, [7, 8], ignore_index=IGNORED)
    metric.update([7, 8], [maps([2, 2]), maps([0])], [maps([0, 1]), maps([0])])
    metric.update([7], [maps([0, 1])], [maps([0, 1])])
    assert metric.confusion().sum() == 3
    assert metric.compute()["mIoU"] == 100


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64])
def test_any_type_of_integers_counts_alike(dtype):
    expected = scored().compute()
    scores = scored(PREDICTED.to(dtype), tv_tensors.Mask(TRUTH.to(dtype))).compute()
    assert str(scores) == str(expected)  # as text, since NaN is unlike itself


@pytest.mark.parametrize("class_count", [5, 150, 3000])
def test_counts_are_those_of_numpy_for_few_and_for_thousands_of_classes(class_count, monkeypatch):
    monkeypatch.setattr(mean_iou, "PIXELS_AT_ONCE", 1000)  # so that the map is counted in several parts
    random = np.random.default_rng(class_count)
    predicted = random.integers(0, class_count, (61, 83))
    truth = np.where(random.random((61, 83)) < 0.1, 65535, random.integers(0, class_count, (61, 83)))
    metric = MeanIoU([str(number) for number in range(class_count)], [0], ignore_index=65535)
    # A transposed map is not contiguous.
    metric.update([0], [torch.from_numpy(predicted)], [torch.from_numpy(truth.T.copy()).T])
    expected = np.zeros((class_count, class_count), dtype=np.int64)
    np.add.at(expected, (truth[truth != 65535], predicted[truth != 65535]), 1)
    assert (metric.confusion() == expected).all()


def test_counts_beyond_32_bits_add_up():
    metric = scored()
    metric._counts[7] = metric._counts[7] * 2**40
    assert metric.confusion().sum() == 6 * 2**40
    assert metric.compute()["mIoU"] == scored().compute()["mIoU"]


@pytest.mark.parametrize(
    ("predicted", "truth", "fault"),
    [
        (maps([0, 4]), maps([0, 1]), "predicted class at row 0, column 1 is 4, .* classes 0..3"),
        (maps([0, 255]), maps([0, 1]), "predicted class at row 0, column 1 is 255"),
        (maps([0, 1]).int() - 1, maps([0, 1]), "predicted class at row 0, column 0 is -1"),
        (maps([0, 1]), maps([0, 4]), "true class at row 0, column 1 is 4, .* 0..3 nor 255, to be ignored"),
        (maps([0], [1]), maps([0, 1]), r"predicted map is 2 x 1, the true one 1 x 2 \(height x width\)"),
        (maps([0, 1]).float(), maps([0, 1]), "predicted map is .*float32, not .* integers"),
        (maps([0, 1]), maps([0, 1])[None], r"true map is \(1, 1, 2\)"),
    ],
)
def test_maps_that_cannot_be_scored_are_refused_with_the_image(predicted, truth, fault):
    with pytest.raises(DataError, match=f"image 7: .*{fault}"):
        scored(predicted, truth)


def test_images_that_are_missing_or_not_asked_for_are_named():
    metric = MeanIoU(NAMES, [7, 9], ignore_index=IGNORED)
    with pytest.raises(DataError, match="image 8 is not among the 2 images"):
        metric.update([8], [PREDICTED], [TRUTH])
    with pytest.raises(DataError, match="2 image ids came with 1 predicted and 2 true"):
        metric.update([7, 9], [PREDICTED], [TRUTH, TRUTH])
    metric.update([7], [PREDICTED], [TRUTH])
    for question in (metric.compute, metric.confusion):
        with pytest.raises(DataError, match="1 of 2 images to score were never seen, the first is 9"):
            question()


def test_reset_forgets_every_image():
    metric = scored()
    metric.reset()
    with pytest.raises(DataError, match="1 of 1 images"):
        metric.compute()


def test_a_truth_without_any_class_is_refused():
    with pytest.raises(DataError, match="no pixel of the ground truth has a class"):
        scored(truth=torch.full_like(TRUTH, IGNORED)).compute()


@pytest.mark.parametrize(
    ("names", "image_ids", "ignore_index", "fault"),
    [
        ([], [1], 255, "no classes"),
        (["a"], [], 255, "no images"),
        (["a", "b", "a"], [1], 255, "one name"),
        (["a", "b"], [1], 1, "ignore_index 1 is class 'b'"),
        (["a", "b"], [1], 10**30, "ignore_index 10+ does not fit"),
        (map(str, range(4097)), [1], -1, "4097 classes are more than the 4096 that can be scored"),
    ],
)
def test_an_evaluation_that_makes_no_sense_is_refused_at_once(names, image_ids, ignore_index, fault):
    with pytest.raises(DataError, match=fault):
        MeanIoU(names, image_ids, ignore_index=ignore_index)
