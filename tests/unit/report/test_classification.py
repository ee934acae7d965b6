"""What a report says of classes and label maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from swin_dense.metrics.accuracy import Row
from swin_dense.report.classification import ClassificationEvidence, calibration, classification_sections
from swin_dense.report.page import Gallery
from swin_dense.report.segmentation import SegmentationEvidence, SegmentedImage, segmentation_sections


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    random = np.random.default_rng(0)
    confidence = random.random(500) ** 0.5
    right = random.random(500) < confidence**2
    expected, largest, bins = calibration(confidence, right)
    ours = torch.from_numpy(confidence), torch.from_numpy(right).long()
    assert expected == pytest.approx(float(binary_calibration_error(*ours, n_bins=10, norm="l1")), abs=1e-6)
    assert largest == pytest.approx(float(binary_calibration_error(*ours, n_bins=10, norm="max")), abs=1e-6)
    assert sum(one["count"] for one in bins) == 500


def test_the_most_confident_mistake_comes_first() -> None:
    rows = [
        Row(0, (0, 1), "right.jpg", (0.9, 0.1)),
        Row(0, (1, 0), "unsure.jpg", (0.6, 0.4)),
        Row(1, (0, 1), "sure.jpg", (0.95, 0.05)),
    ]
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    *_, images = classification_sections(ClassificationEvidence(rows, ("cat", "dog"), lambda row: image))
    mistakes = images.blocks[0]
    assert isinstance(mistakes, Gallery)
    assert [one.caption for one in mistakes.pictures] == [
        "sure.jpg: dog, taken for cat",
        "unsure.jpg: cat, taken for dog",
    ]


def test_the_worst_label_map_comes_first_with_a_map_of_its_errors() -> None:
    truth = torch.zeros(16, 16, dtype=torch.int32)
    truth[:, 8:] = 1
    image = torch.full((3, 16, 16), 200, dtype=torch.uint8)
    images = [
        SegmentedImage("good.png", lambda: (truth, truth), lambda: image),
        SegmentedImage("bad.png", lambda: (truth, 1 - truth), lambda: image),
    ]
    sections = {one.title: one for one in segmentation_sections(SegmentationEvidence(images, ("sky", "sea")))}
    worst, *_ = sections["Images"].blocks
    assert isinstance(worst, Gallery)
    assert worst.pictures[0].caption == "bad.png: mIoU 0.0 %, 0.0 % of the pixels right"
    assert worst.pictures[1].caption.startswith("good.png: mIoU 100.0 %")
