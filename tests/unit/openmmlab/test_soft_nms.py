"""Soft-NMS that a model dict asks for, as the overrides of the command line do, is the published one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import box_iou

from swin_dense.config import load_config
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.records import Batch, Detections, Sample, collate

DEMO = Path(__file__).resolve().parents[3] / "configs" / "demo" / "mask-rcnn_swin-nano_shapes.py"
EVERY_BOX = ["model.test_cfg.rcnn.score_thr=0.1", "model.test_cfg.rcnn.max_per_img=100000"]


def batch() -> Batch:
    image = torch.randint(256, (3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return collate([Sample(tv_tensors.Image(image), 0, "0.jpg", (64, 96))])


def found_with(*overrides: str) -> Detections:
    torch.manual_seed(0)
    detector = OpenMMLabDetector(load_config(DEMO, [*EVERY_BOX, *overrides]).model, num_classes=6).eval()
    with torch.inference_mode():
        return detector.predict(batch())[0]


def plain_soft_nms(found: Detections, gaussian: bool) -> Tensor:
    """(N, 6) boxes, lowered scores and classes of Bodla et al. (2017), best first, from all boxes of a detector."""
    rows = []
    for label in found.labels.unique().tolist():
        members = found.labels == label
        boxes, scores = found.boxes[members].double(), found.scores[members].double()
        overlaps = box_iou(boxes, boxes)
        while scores.max() >= 0.05:
            best = int(scores.argmax())
            rows.append([*boxes[best].tolist(), float(scores[best]), label])
            for i, overlap in enumerate(overlaps[best].tolist()):
                scores[i] *= math.exp(-(overlap**2) / 0.5) if gaussian else (1 - overlap if overlap >= 0.5 else 1)
            scores[best] = 0
    table = torch.tensor(rows)
    return table[table[:, 4].argsort(descending=True)]


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_a_detector_lowers_the_scores_of_overlapping_boxes(method: str) -> None:
    everything = found_with("model.test_cfg.rcnn.nms.iou_threshold=1.0")
    soft = found_with(
        "model.test_cfg.rcnn.nms.type=soft_nms",
        f"model.test_cfg.rcnn.nms.method={method}",
        "model.test_cfg.rcnn.nms.min_score=0.05",
    )
    expected = plain_soft_nms(everything, gaussian=method == "gaussian")
    assert len(everything) > len(soft) == len(expected) > 20
    torch.testing.assert_close(soft.scores, expected[:, 4], rtol=1e-4, atol=0)
    assert soft.masks is not None and len(soft.masks) == len(soft)
    assert (soft.scores[:, None] - everything.scores).abs().min(dim=1).values.max() > 1e-3  # scores that no box had
    for label in range(6):
        mine, theirs = soft.boxes[soft.labels == label], expected[expected[:, 5] == label][:, :4]
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-3)
