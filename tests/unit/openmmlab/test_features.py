"""Models to export from, made of configs: what the network itself computes for an image that is alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.random_values import randomised
from swin_dense.backbones import create_backbone
from swin_dense.config import load_config
from swin_dense.errors import ConfigError, WeightsError
from swin_dense.export.models import IMAGENET
from swin_dense.models.parts import features_of, view_of
from swin_dense.openmmlab import detection, segmentation
from swin_dense.weights import save_weights

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
DETECTOR = CONFIGS / "demo" / "mask-rcnn_swin-nano_shapes.py"
SEGMENTER = CONFIGS / "demo" / "upernet_swin-nano_shapes.py"


@pytest.fixture(scope="module")
def detector() -> Any:
    return randomised(detection.build_network(load_config(DETECTOR).model, num_classes=3))


def test_a_detector_gives_its_stages_and_levels_padded_as_its_heads_see_them(detector: Any, tmp_path: Path) -> None:
    """Whole weights load although the classes are others; images are RGB and no multiple of 32."""
    save_weights(detector, tmp_path / "w.safetensors")
    model: Any = features_of(DETECTOR, weights=tmp_path / "w.safetensors", stages=(2, 3), neck=True).eval()
    assert [(spec.name, spec.channels, spec.stride) for spec in model.feature_specs] == [
        ("stage2", 64, 8),
        ("stage3", 128, 16),
        *((f"p{level}", 64, 2**level) for level in range(2, 7)),
    ]
    assert model.pyramid == ("p2", "p3", "p4", "p5", "p6") and model.size_divisor == 32
    images = torch.randint(0, 256, (2, 3, 41, 70), dtype=torch.uint8)
    with torch.inference_mode():
        # mmdet's own words: BGR images, converted, normalised and padded by the preprocessor of the config.
        mean, std = (
            torch.tensor(values).view(3, 1, 1) for values in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
        )
        inputs = torch.nn.functional.pad((images - mean) / std, (0, 96 - 70, 0, 64 - 41))
        stages, levels = detector.backbone(inputs), detector.extract_feat(inputs)
        maps = model(images)
    for found, expected in zip(maps, (stages[1], stages[2], *levels), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_resnet_gives_its_stages_and_levels(tmp_path: Path) -> None:
    """mmdet's own backbones return nothing of `train()` and `eval()`."""
    config = CONFIGS / "demo" / "mask-rcnn_resnet-nano_shapes.py"
    network = randomised(detection.build_network(load_config(config).model, num_classes=3))
    save_weights(network, tmp_path / "w.safetensors")
    model: Any = features_of(config, weights=tmp_path / "w.safetensors", stages=(4,), neck=True)
    assert [spec.name for spec in model.feature_specs][:2] == ["stage4", "p2"]
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        maps = model(images)
        mean, std = torch.tensor(IMAGENET.mean).view(3, 1, 1), torch.tensor(IMAGENET.std).view(3, 1, 1)
        expected = network.eval().extract_feat((images - mean) / std)
    for found, level in zip(maps[1:], expected, strict=True):
        torch.testing.assert_close(found, level, rtol=1e-4, atol=1e-5)


def test_without_a_neck_the_stages_of_backbone_weights_will_do(tmp_path: Path) -> None:
    save_weights(create_backbone("swin_nano"), tmp_path / "w.safetensors")
    model: Any = features_of(DETECTOR, weights=tmp_path / "w.safetensors")
    assert [spec.name for spec in model.feature_specs] == ["stage1", "stage2", "stage3", "stage4"]
    with pytest.raises(WeightsError, match="holds a backbone alone: do without the neck"):
        features_of(DETECTOR, weights=tmp_path / "w.safetensors", neck=True)


def test_a_segmenter_gives_its_stages(tmp_path: Path) -> None:
    config = load_config(SEGMENTER)
    network = randomised(segmentation.build_network(config.model, num_classes=7))
    save_weights(network, tmp_path / "w.safetensors")
    model: Any = features_of(config, weights=tmp_path / "w.safetensors").eval()
    images = torch.randint(0, 256, (1, 3, 41, 70), dtype=torch.uint8)
    with torch.inference_mode():
        inputs = network.data_preprocessor({"inputs": list(images)}, False)["inputs"]
        for found, expected in zip(model(images), network.backbone(inputs), strict=True):
            assert found.equal(expected)
    with pytest.raises(ConfigError, match="there is no neck"):
        features_of(config, random_weights=True, neck=True)


def test_the_size_is_that_at_which_the_config_tests() -> None:
    assert view_of(load_config(DETECTOR), resized=True) == {"short_side": 128, "max_long_side": 128}
    assert view_of(load_config(SEGMENTER, ["augmentation.test_scale=[2048, 512]"]), resized=True) == {
        "short_side": 512,
        "max_long_side": 2048,
    }
    assert view_of(load_config(SEGMENTER, ["augmentation.test_scale=None"]), resized=True) == {}
