"""The metrics of a real network's predictions on real ADE20K images reproduce."""

import json
from pathlib import Path

import numpy as np
import pytest

from swin_dense.metrics import evaluate_label_map_files


def test_the_golden_metrics_reproduce_to_ten_digits(shared_data: Path) -> None:
    folder = shared_data / "ade20k_tiny"
    expected = json.loads((folder / "expected_miou.json").read_text())
    scores = evaluate_label_map_files(folder / "annotations" / "validation", folder / "predictions" / "validation")
    for name, value in expected["mmseg_IoUMetric"].items():
        assert scores[name] == pytest.approx(value, abs=1e-10)
    per_class = scores["per_class"]
    assert len(per_class) == 150
    assert per_class["sky"]["IoU"] > 98  # a shift by one would give every class another's score
    counts = expected["confusion_matrix_numpy"]
    assert np.isfinite([one["IoU"] for one in per_class.values()]).sum() == counts["classes_in_union"]
    assert np.isfinite([one["Acc"] for one in per_class.values()]).sum() == counts["classes_in_gt"]


def test_the_whole_annotations_folder_scores_perfectly_against_itself(shared_data: Path) -> None:
    annotations = shared_data / "ade20k_tiny" / "annotations"
    scores = evaluate_label_map_files(annotations, annotations)
    assert [scores[name] for name in ("mIoU", "mAcc", "aAcc")] == [100, 100, 100]
    assert scores["per_class"]["person"]["IoU"] == 100
