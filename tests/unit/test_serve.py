"""What the page shows of a result of any task; `tests/e2e/test_serve.py` has the page itself, in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import pytest
import torch
from PIL import Image

from swin_dense.records import Detections
from swin_dense.serve import as_html
from swin_dense.tasks.classification import ClassificationResult
from swin_dense.tasks.detection import DetectionResult
from swin_dense.tasks.segmentation import SegmentationResult
from swin_dense.tasks.video import VideoResult

NAMES = ("cat", "<script>")
IMAGE = torch.zeros(3, 16, 24, dtype=torch.uint8)
OBJECT = Detections(torch.tensor([[2.0, 2, 8, 6]]), torch.tensor([0.9]), torch.tensor([1]))
SURE = torch.tensor([0.25, 0.75])


@pytest.mark.parametrize(
    ("result", "row"),
    [
        (DetectionResult(IMAGE, OBJECT, NAMES, (17, 18)), {"category_id": 18, "bbox": [2.0, 2.0, 6.0, 4.0]}),
        (SegmentationResult(IMAGE, torch.ones(16, 24, dtype=torch.int32), NAMES), {"category_id": 2}),
        (ClassificationResult(IMAGE, SURE, NAMES), {"score": 0.75}),
        (VideoResult(IMAGE.expand(8, 3, 16, 24), SURE, NAMES), {"score": 0.75}),
    ],
    ids=["detection", "segmentation", "classification", "video"],
)
def test_it_holds_picture_and_rows_and_no_markup_of_class_names(result: Any, row: dict[str, Any]) -> None:
    text = as_html(result)
    picture, document = (base64.b64decode(one) for one in re.findall(r";base64,([^\"]+)", text))
    assert Image.open(io.BytesIO(picture)).size >= (16, 16)
    first = json.loads(document)[0]
    assert first["category"] == "<script>" and row.items() <= first.items()
    assert "&lt;script&gt;" in text and "<script>" not in text
    assert text.count("<td>") == len(json.loads(document)) * (2 if "score" in first else 1)  # no empty column
