"""Parts of detectors and segmenters: what they compute, and their traceable forms."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from swin_dense.backbones.plain import PlainSwin
from swin_dense.config import load_config
from swin_dense.config.detection import DetectionConfig
from swin_dense.config.segmentation import SegmentationConfig
from swin_dense.errors import ConfigError, WeightsError
from swin_dense.export.graph import OnnxModel, trace, write_onnx
from swin_dense.export.models import RawImages, traceable
from swin_dense.models.parts import load_part
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.openmmlab.segmentation import OpenMMLabSegmenter
from swin_dense.records import Batch
from swin_dense.weights import save_weights

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "demo"
SMALL = {"embed_dim": 8, "depths": (2, 1, 1, 1), "num_heads": (1, 1, 2, 2), "drop_path_rate": 0.2}
TWO_STAGES = {**SMALL, "depths": (1, 2), "num_heads": (1, 1), "out_indices": (0, 1)}


@pytest.fixture(scope="module")
def detection() -> Any:
    config = load_config(CONFIGS / "mask-rcnn_swin-nano_shapes.py")
    assert isinstance(config, DetectionConfig)
    config.model["backbone"].update(TWO_STAGES)
    config.model["neck"]["num_outs"] = 3
    return config


@pytest.fixture(scope="module")
def segmentation() -> Any:
    config = load_config(CONFIGS / "upernet_swin-nano_shapes.py")
    assert isinstance(config, SegmentationConfig)
    config.model["backbone"].update(SMALL)
    return config


@pytest.fixture(scope="module")
def detector(detection: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[OpenMMLabDetector, Path]:
    """A detector of three classes with weights of its own, and their file."""
    torch.manual_seed(11)
    detector = OpenMMLabDetector(detection.model, 3).eval()
    path = tmp_path_factory.mktemp("weights") / "detector.safetensors"
    save_weights(detector.network, path)
    return detector, path


def pixels(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def test_backbone_and_neck_compute_the_detectors_own_maps(
    detection: Any, detector: tuple[OpenMMLabDetector, Path], tmp_path: Path
) -> None:
    """From the image on: normalised, padded to multiples of 32, through the FPN, in PyTorch and in ONNX."""
    part = load_part(detection, detector[1], part="neck")
    assert [(one.name, one.channels, one.stride) for one in part.outputs] == [
        (f"p{level}", 64, 2**level) for level in (2, 3, 4)
    ]
    images, sizes = pixels(45, 70), ((45, 70),) * 2
    with torch.no_grad():
        inputs, _ = detector[0]._preprocess(Batch(images, sizes, sizes, (0, 1), ("a", "b")), training=False)
        expected = detector[0].network.extract_feat(inputs)
        found = RawImages(part.module, part.preprocessing).eval()(images.float())
    for ours, right in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, right)

    graph = trace(RawImages(traceable(part.module), part.preprocessing).eval(), (64, 64))
    assert graph.open_axes == ("batch", "height", "width")
    write_onnx(graph, tmp_path / "neck.onnx", [one.name for one in part.outputs], {})
    for ours, right in zip(OnnxModel(tmp_path / "neck.onnx")(images.float()), expected, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-4)


def test_traceable_form_shares_parameters_and_leaves_the_model_as_it_is(
    detection: Any, detector: tuple[OpenMMLabDetector, Path]
) -> None:
    part = load_part(detection, detector[1], part="backbone")
    plain = traceable(part.module)
    assert isinstance(plain.backbone, PlainSwin) and not isinstance(part.module.backbone, PlainSwin)
    own = {id(parameter) for parameter in part.module.parameters()}
    assert {id(parameter) for parameter in plain.parameters()} <= own


def test_a_whole_segmenter_gives_the_logits(segmentation: Any) -> None:
    part = load_part(segmentation, random_weights=True)
    torch.manual_seed(0)
    segmenter = OpenMMLabSegmenter(segmentation.model, segmentation.model["decode_head"]["num_classes"]).eval()
    segmenter.network.load_state_dict(part.module.network.state_dict())
    assert [(one.name, one.stride) for one in part.outputs] == [("logits", 4)]
    images = pixels(61, 83)
    with torch.no_grad():
        expected = segmenter.logits(images)
        for module in (part.module, traceable(part.module)):
            (logits,) = RawImages(module, part.preprocessing).eval()(images.float())
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_colours_in_the_order_of_the_model(detection: Any, detector: tuple[OpenMMLabDetector, Path]) -> None:
    config = copy.deepcopy(detection)
    preprocessor = config.model["data_preprocessor"]
    preprocessor.update(bgr_to_rgb=False, mean=[3.0, 2.0, 1.0], std=[6.0, 5.0, 4.0])  # now in the order B, G, R
    preprocessing = load_part(config, detector[1], part="neck").preprocessing
    assert preprocessing.bgr
    assert (preprocessing.mean, preprocessing.std) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))


@pytest.mark.parametrize(
    ("config", "overrides", "reason"),
    [
        ("htc_swin-nano_shapes", (), 'hand features to each other and to a semantic branch: .*; use part="neck"'),
        ("mask-rcnn_swin-nano_shapes", ("model.test_cfg.rcnn.nms.type=soft_nms",), "ONNX has no soft_nms"),
    ],
)
def test_what_has_no_plain_form_is_not_exported_whole(config: str, overrides: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_part(config, random_weights=True, overrides=overrides)


def test_weights_of_a_backbone_are_not_enough_for_a_neck(
    detection: Any, detector: tuple[OpenMMLabDetector, Path], tmp_path: Path
) -> None:
    save_weights(detector[0].network.backbone, tmp_path / "backbone.safetensors")
    with pytest.raises(WeightsError, match="holds a backbone alone: do without the neck"):
        load_part(detection, tmp_path / "backbone.safetensors", part="neck")
    load_part(detection, tmp_path / "backbone.safetensors", part="backbone")
