"""Figures of label maps equal those of mmsegmentation's IoUMetric, class by class."""

import numpy as np
import pytest
import torch

from swin_dense.metrics import MeanIoU

IGNORED = 255


@pytest.mark.parametrize("absent", [[], [2, 9], [0, 11]])
def test_absent_classes_and_ignored_pixels_count_as_in_mmseg(absent: list[int]) -> None:
    from mmseg.evaluation import IoUMetric

    class_count, images = 12, 5
    random = np.random.default_rng(len(absent))
    present = np.setdiff1d(np.arange(class_count), absent)
    metric = MeanIoU([str(number) for number in range(class_count)], range(images), ignore_index=IGNORED)
    areas = []
    for image_id in range(images):
        truth = torch.from_numpy(random.choice([*present, IGNORED], (40, 50 + image_id)))
        confused = torch.from_numpy(random.choice([*present, *absent[:1]], tuple(truth.shape)))
        predicted = torch.where(torch.from_numpy(random.random(truth.shape)) < 0.5, truth, confused)
        predicted[truth == IGNORED] = int(present[0])
        metric.update([image_id], [predicted], [truth])
        areas.append(IoUMetric.intersect_and_union(predicted, truth, class_count, IGNORED))
    theirs = IoUMetric.total_area_to_metrics(*(sum(area) for area in zip(*areas, strict=True)), ["mIoU"])

    ours = metric.compute()
    for figure in ("IoU", "Acc"):
        of_class = [100 * value for value in theirs[figure].tolist()]
        assert [one[figure] for one in ours["per_class"].values()] == pytest.approx(of_class, rel=1e-6, nan_ok=True)
        assert ours[f"m{figure}"] == pytest.approx(100 * np.nanmean(theirs[figure]), rel=1e-6)
        assert int(np.isnan(of_class).sum()) == (len(absent[1:]) if figure == "IoU" else len(absent))
    assert ours["aAcc"] == pytest.approx(100 * theirs["aAcc"].item(), rel=1e-6)
