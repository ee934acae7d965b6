"""What in an image speaks for a detector's or a segmenter's answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from swin_dense.config import load_config
from swin_dense.errors import ConfigError
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.weights import save_weights
from swin_dense.workflows.saliency import saliency_of

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "demo"
SMALL = {"embed_dim": 8, "depths": (2, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
IMAGE = torch.randint(0, 256, (3, 45, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))


def small(name: str) -> Any:
    config = load_config(CONFIGS / name)
    config.model["backbone"].update(SMALL)
    return config


def test_a_detector_is_asked_for_its_surest_object_or_that_of_a_class(tmp_path: Path) -> None:
    config, path = small("mask-rcnn_swin-nano_shapes.py"), tmp_path / "detector.safetensors"
    torch.manual_seed(5)
    network = OpenMMLabDetector(config.model, 2).network
    save_weights(
        network, path, metadata={"class_names": json.dumps(["mountain lion", "snow leopard"]), "category_ids": "[1, 2]"}
    )
    saliency = saliency_of(config, path, None)
    explained = saliency.explain(IMAGE, [saliency.backbone.blocks(index)[-1] for index in (0, 3)])
    assert explained.target in ("score of the surest mountain lion", "score of the surest snow leopard")
    for heat in explained.maps:
        assert heat.shape == (45, 70)
        assert heat.min() >= 0 and heat.max() > 0
    with pytest.raises(ConfigError, match='did you mean "mountain lion"?'):
        saliency_of(config, path, "mountain lions").explain(IMAGE, [])


def test_a_segmenter_is_asked_for_the_area_of_its_largest_class() -> None:
    saliency = saliency_of(small("upernet_swin-nano_shapes.py"), None, None)
    with torch.no_grad():
        padded = torch.nn.functional.pad(IMAGE[None], (0, 26, 0, 19))
        largest = int(saliency.model.logits(padded).argmax(1).flatten().mode().values)
    explained = saliency.explain(IMAGE, [saliency.backbone.blocks(3)[-1]])
    assert explained.target == f"logits where it sees class {largest + 1}"
    assert explained.maps[0].shape == (45, 70) and explained.maps[0].max() > 0
