"""An mmdet detector behind our records means exactly what it means when mmdet drives it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from swin_dense.config import load_config
from swin_dense.errors import ConfigError
from swin_dense.openmmlab import detection
from swin_dense.openmmlab.detection import OpenMMLabDetector, encode_masks
from swin_dense.records import Instances, Sample, collate

DEMO = Path(__file__).resolve().parents[3] / "configs" / "demo" / "mask-rcnn_swin-nano_shapes.py"


def demo_model(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(load_config(DEMO).model), **changes}


def sample(height: int, width: int, seed: int, crowd: bool = False) -> Sample:
    """Noise with three boxes full of mask; the last may be a crowd region."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    boxes = torch.tensor([[4.0, 6.0, 40.0, 50.0], [30.0, 20.0, 70.0, 60.0], [10.0, 40.0, 60.0, 64.0]])
    masks = torch.zeros(3, height, width, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    instances = Instances(
        tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
        tv_tensors.Mask(masks),
        torch.tensor([0, 5, 2]),
        torch.tensor([False, False, crowd]),
    )
    return Sample(tv_tensors.Image(image), seed, f"{seed}.jpg", (2 * height, 2 * width), instances)


def test_matching_is_sure_of_itself_in_half_precision() -> None:
    """The logarithm of what is left of a chance near 1 must not become that of 0."""
    torch.manual_seed(0)
    sparse = OpenMMLabDetector(load_config(DEMO.with_name("sparse-rcnn_swin-nano_shapes.py")).model, num_classes=6)
    with torch.no_grad():
        for head in sparse.network.roi_head.bbox_head:
            head.fc_cls.bias[0] = 9.0
    with torch.autocast("cpu", torch.float16):
        terms = sparse.losses(collate([sample(64, 96, 1)]))
    assert all(torch.isfinite(value).all() for value in terms.values())


@pytest.fixture(scope="module")
def detector() -> OpenMMLabDetector:
    torch.manual_seed(0)
    return OpenMMLabDetector(demo_model(), num_classes=6)


def mmdet_samples(samples: list[Sample]) -> list[Any]:
    """The ground truth as mmdet's own pipeline packs it."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    packed = []
    for one in samples:
        assert one.instances is not None
        truth = InstanceData()
        truth.bboxes, truth.labels = torch.Tensor(one.instances.boxes), one.instances.labels
        truth.masks = BitmapMasks(np.asarray(one.instances.masks).astype(np.uint8), *one.size)
        data_sample = DetDataSample(metainfo={"img_shape": one.size, "ori_shape": one.original_size})
        data_sample.gt_instances, data_sample.ignored_instances = truth, InstanceData()
        data_sample.ignored_instances.bboxes = torch.zeros(0, 4)
        packed.append(data_sample)
    return packed


def test_losses_equal_those_of_mmdet_fed_with_bgr_images(detector: OpenMMLabDetector) -> None:
    from mmdet.models.data_preprocessors import DetDataPreprocessor
    from mmdet.models.task_modules.assigners import MaxIoUAssigner

    samples = [sample(64, 96, 1), sample(96, 70, 2)]
    preprocessor = DetDataPreprocessor(**{k: v for k, v in demo_model()["data_preprocessor"].items() if k != "type"})
    bgr = [torch.Tensor(one.image.flip(0)).byte() for one in samples]
    data = preprocessor({"inputs": bgr, "data_samples": mmdet_samples(samples)}, training=True)
    torch.manual_seed(5)
    expected, _ = detector.network.parse_losses(detector.network.loss(data["inputs"], data["data_samples"]))
    assert type(detector.network.rpn_head.assigner) is MaxIoUAssigner  # what is expected comes from mmdet alone
    torch.manual_seed(5)
    terms = detector.losses(collate(samples))
    assert type(detector.network.rpn_head.assigner) is not MaxIoUAssigner
    assert set(terms) == {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "acc", "loss_bbox", "loss_mask"}
    total = sum(value for name, value in terms.items() if "loss" in name)
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)


def test_detections_are_in_pixels_of_the_image_on_disk(detector: OpenMMLabDetector) -> None:
    network = copy.deepcopy(detector).eval()
    network.network.roi_head.test_cfg.score_thr = 0.0
    one = sample(64, 96, 3)
    with torch.no_grad():
        (found,) = network.predict(collate([one]))
    assert len(found) == 100
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)
    assert found.masks is not None
    assert all(mask["size"] == list(one.original_size) for mask in found.masks)
    height, width = one.original_size
    assert 64 < found.boxes[:, [1, 3]].max() <= height
    assert 96 < found.boxes[:, [0, 2]].max() <= width


def test_crowd_regions_are_no_objects(detector: OpenMMLabDetector) -> None:
    from swin_dense.openmmlab.detection import _data_samples

    (packed,) = _data_samples(collate([sample(64, 96, 1, crowd=True)]), training=True)
    assert packed.gt_instances.labels.tolist() == [0, 5]
    assert len(packed.gt_instances.masks) == 2
    assert packed.ignored_instances.bboxes.tolist() == [[10.0, 40.0, 60.0, 64.0]]


def test_crowd_flags_stay_where_they_are_read() -> None:
    """The heads want them image by image on the host, and each would wait for the device."""
    batch = collate([sample(64, 96, 1, crowd=True)]).to("meta")
    assert batch.instances is not None
    (instances,) = batch.instances
    assert instances.boxes.is_meta and instances.labels.is_meta and instances.crowd.tolist() == [False, False, True]


def test_an_image_without_objects_gives_finite_losses_and_gradients(detector: OpenMMLabDetector) -> None:
    one = sample(64, 96, 4)
    assert one.instances is not None
    nothing = Instances(
        tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=one.size),
        tv_tensors.Mask(torch.zeros(0, *one.size, dtype=torch.bool)),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.bool),
    )
    empty = Sample(one.image, 4, "4.jpg", one.original_size, nothing)
    network = copy.deepcopy(detector)
    total = sum(value for name, value in network.losses(collate([empty])).items() if "loss" in name)
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())


def test_the_class_count_reaches_every_head_but_the_rpn(detector: OpenMMLabDetector) -> None:
    network = OpenMMLabDetector(demo_model(), num_classes=3).network
    assert network.roi_head.bbox_head.num_classes == 3
    assert network.roi_head.mask_head.num_classes == 3
    assert network.rpn_head.num_classes == 1


def test_any_mmdet_backbone_serves() -> None:
    backbone = {"type": "SwinTransformer", "embed_dims": 32, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
    model = demo_model(backbone={**backbone, "window_size": 4})
    model["neck"]["in_channels"] = [32, 64, 128, 256]
    terms = OpenMMLabDetector(model, num_classes=6).losses(collate([sample(64, 96, 1)]))
    assert all(torch.isfinite(value) for value in terms.values())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("type",), "MaskRCN", 'model.type: mmdet has no "MaskRCN"; did you mean "MaskRCNN"?'),
        (("neck", "type"), "FPNN", 'model.neck.type: mmdet has no "FPNN"; did you mean "FPN"?'),
        (("neck", "type"), "", 'model.neck.type: mmdet has no ""; valid: '),
        (("neck", "type"), "../x", 'model.neck.type: mmdet has no "../x"; '),
        (("data_preprocessor", "mean"), [None] * 3, "model: mmdet cannot build it: "),
        (("neck", "in_channels"), [1, 2, 3, 4], "model.neck.in_channels is"),
        (("neck", "outs"), 5, "mmdet cannot build it"),
        (("backbone", "variant"), "swin_nan", "swin_nano"),
        (("backbone", "variant"), "swin3d_tiny", "is for videos; detectors and segmenters take images"),
        (("backbone", "init_cfg"), {"type": "Pretrained", "checkpoint": "http://x"}, "model.backbone.init_cfg"),
        (("backbone", "init_cfg"), {"checkpoint": "http://x"}, "model.backbone.init_cfg: no weights are fetched"),
        (("teacher_ckpt",), "http://x", "model.teacher_ckpt: no weights are fetched"),
        (("language_model",), {"type": "BertModel", "name": "bert"}, "model.language_model: it would be fetched"),
        (("data_preprocessor",), None, "data_preprocessor is missing"),
    ],
)
def test_a_wrong_part_is_named(path: tuple[str, ...], value: Any, message: str) -> None:
    model = demo_model()
    target = model
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(ConfigError) as caught:
        OpenMMLabDetector(model, num_classes=6)
    assert message in str(caught.value)


def test_what_mmdet_raised_while_building_is_kept_as_the_cause() -> None:
    import traceback

    model = demo_model()
    model["neck"]["outs"] = 5
    with pytest.raises(ConfigError, match="mmdet cannot build it: TypeError: .*'outs'") as caught:
        OpenMMLabDetector(model, num_classes=6)
    assert isinstance(caught.value.__cause__, TypeError)
    assert "mmengine/registry" in "".join(traceback.format_exception(caught.value))


def test_building_leaves_the_logger_of_mmengine_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    before = logger.level
    try:
        logger.setLevel("INFO")
        OpenMMLabDetector(demo_model(), num_classes=6)
        assert logger.level == 20
        assert "INFO" not in capfd.readouterr().err
    finally:
        logger.setLevel(before)


@pytest.mark.parametrize("shape", [(3, 9, 13), (5, 1, 8), (5, 8, 1), (4, 1, 1), (20, 70, 50), (0, 4, 4)])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_masks_are_encoded_as_coco_does_in_however_many_pieces(
    shape: tuple[int, int, int], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pycocotools import mask as coco_mask

    masks = torch.rand(shape) < share
    expected = [coco_mask.encode(np.asfortranarray(one.numpy().view(np.uint8))) for one in masks]
    assert encode_masks(masks) == expected
    monkeypatch.setattr(detection, "MOST_ENCODED", 2 * shape[1] * shape[2])
    assert encode_masks(masks) == expected


def test_on_other_devices_the_same_runs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = torch.rand(6, 20, 30) < 0.3
    expected = encode_masks(masks)
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    assert encode_masks(masks) == expected
