"""Models survive pickling, also into a process that has imported nothing yet, as processes that train together do."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from swin_dense.config import load_config
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.openmmlab.segmentation import OpenMMLabSegmenter
from swin_dense.records import Batch

DEMOS = Path(__file__).resolve().parents[3] / "configs" / "demo"
BATCH = Batch(
    torch.randint(0, 256, (1, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8),
    ((64, 96),),
    ((64, 96),),
    (1,),
    ("1.jpg",),
)


def detector(name: str) -> OpenMMLabDetector:
    torch.manual_seed(0)
    return OpenMMLabDetector(load_config(DEMOS / f"{name}.py").model, num_classes=3).eval()


@pytest.mark.parametrize(
    "name",
    ["mask-rcnn_swin-nano_shapes", "sparse-rcnn_swin-nano_shapes", "mask-reppoints-v2_swin-nano_shapes"],
)
@torch.no_grad()
def test_a_detector_finds_the_same_after_pickling(name: str) -> None:
    model = detector(name)
    if "reppoints" in name:  # which is sure of nothing before it is trained
        model.network.bbox_head.test_cfg["score_thr"] = 0.0
    other = pickle.loads(pickle.dumps(model))
    (expected,), (found,) = model.predict(BATCH), other.predict(BATCH)
    assert torch.equal(found.boxes, expected.boxes) and torch.equal(found.scores, expected.scores)
    assert found.masks == expected.masks and len(found) > 0
    assert (other.num_classes, other.has_masks) == (model.num_classes, model.has_masks)


@torch.no_grad()
def test_models_are_the_same_in_a_process_that_has_imported_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = load_config(DEMOS / "upernet_swin-nano_shapes.py")
    segmenter, found = OpenMMLabSegmenter(config.model, num_classes=3).eval(), detector("htc_swin-nano_shapes")
    inputs = tmp_path / "models.pickle"
    inputs.write_bytes(pickle.dumps((segmenter, found, BATCH)))
    program = """
import pickle, sys, torch
with torch.no_grad():
    segmenter, detector, batch = pickle.load(open(sys.argv[1], "rb"))
    torch.save([segmenter.logits(batch.images), detector.predict(batch)[0].scores], sys.argv[2])
"""
    output = tmp_path / "outputs.pt"
    command = [sys.executable, "-W", "ignore", "-c", program, str(inputs), str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    logits, scores = torch.load(output)
    torch.testing.assert_close(logits, segmenter.logits(BATCH.images))
    torch.testing.assert_close(scores, found.predict(BATCH)[0].scores)
