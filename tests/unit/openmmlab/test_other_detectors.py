"""Detectors that we ship no config of train and predict too: mmdet's packaged model dicts with our backbone in them."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from swin_dense.config import load_config
from swin_dense.errors import ConfigError, DataError, InstallationError
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.openmmlab.model_dicts import has_masks
from swin_dense.openmmlab.registry import BACKBONE, mmdet_models
from swin_dense.records import Batch, Instances, Sample, collate
from swin_dense.training import DetectorModule

CLASSES = 6
QUIET = {"enable_progress_bar": False, "enable_model_summary": False}
PACKAGED = {
    "RetinaNet": "retinanet/retinanet_r50_fpn_1x_coco.py",
    "FCOS": "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "TOOD": "tood/tood_r50_fpn_1x_coco.py",
    "SOLO": "solo/solo_r50_fpn_1x_coco.py",
    "BoxInst": "boxinst/boxinst_r50_fpn_ms-90k_coco.py",
    "DINO": "dino/dino-4scale_r50_8xb2-12e_coco.py",
    "DyHead": "dyhead/atss_r50_fpn_dyhead_1x_coco.py",
    "Mask2Former": "mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
}
MASK2FORMER_PANOPTIC = "mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py"
SMALLER: dict[str, dict[str, Any]] = {
    "DINO": {
        "num_queries": 60,
        "encoder.num_layers": 1,
        "decoder.num_layers": 2,
        "dn_cfg.group_cfg.num_dn_queries": 10,
        "test_cfg.max_per_img": 100,
    },
    "DyHead": {"neck.1.num_blocks": 2},
    "Mask2Former": {
        "panoptic_head.num_queries": 20,
        "panoptic_head.pixel_decoder.encoder.num_layers": 1,
        "panoptic_head.transformer_decoder.num_layers": 3,
        "train_cfg.num_points": 256,
        "data_preprocessor.batch_augments": None,
    },
}
"""Fewer layers and queries, so that a step takes no time."""


@cache
def packaged(path: str) -> Any:
    import mmdet
    from mmengine.config import Config

    mmdet_models()
    return Config.fromfile(Path(mmdet.__file__).parent / ".mim" / "configs" / path).model


def on_swin_nano(name: str) -> dict[str, Any]:
    """A packaged model dict with our backbone in the place of its own; widths are left to be filled in."""
    model = copy.deepcopy(packaged(PACKAGED[name]))
    outputs = model.backbone.out_indices
    first = model.panoptic_head if name == "Mask2Former" else model.neck[0] if name == "DyHead" else model.neck
    if first.get("start_level"):  # necks that leave the first of four maps alone
        outputs, first.start_level = (1, 2, 3), 0
    model.backbone = {"type": BACKBONE, "variant": "swin_nano", "out_indices": outputs}
    del first["in_channels"]
    for key, value in SMALLER.get(name, {}).items():
        *parents, last = key.split(".")
        part = model
        for parent in parents:
            part = part[int(parent) if parent.isdigit() else parent]
        part[last] = value
    return dict(model)


def batch(masks: bool) -> Batch:
    """Two images of noise with a box full of mask in each, and a crowd region in the second."""
    samples = []
    for i, (height, width) in enumerate([(64, 96), (96, 70)]):
        image = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        boxes = torch.tensor([[4.0, 6.0, 40.0, 50.0], [30.0, 20.0, 70.0, 60.0]])
        pixels = torch.zeros(2, height, width, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(pixels, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = True
        instances = Instances(
            tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            tv_tensors.Mask(pixels) if masks else None,
            torch.tensor([i, CLASSES - 1]),
            torch.tensor([False, i == 1]),
        )
        samples.append(Sample(tv_tensors.Image(image), i, f"{i}.jpg", (2 * height, 2 * width), instances))
    return collate(samples)


@pytest.mark.parametrize("name", PACKAGED)
def test_two_steps_and_a_prediction(name: str) -> None:
    torch.manual_seed(0)
    detector = OpenMMLabDetector(on_swin_nano(name), CLASSES)
    assert detector.has_masks == (name in ("SOLO", "BoxInst", "Mask2Former"))
    learnt = batch(detector.has_masks)
    before = {key: value.clone() for key, value in detector.network.named_parameters()}
    module = DetectorModule(detector, metric=cast(Any, None), inference=cast(Any, None))  # nothing is validated
    trainer = Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, **QUIET)
    trainer.fit(module, DataLoader([learnt, learnt], batch_size=None))
    assert trainer.global_step == 2
    moved = {key for key, value in detector.network.named_parameters() if not torch.equal(value, before[key])}
    assert {key for key in before if key.startswith("backbone.")} <= moved
    assert len(moved) > 0.9 * len(before)  # queries without a partner teach some layers nothing
    with torch.no_grad():
        predicted = detector.eval().predict(learnt)
    for found, (height, width) in zip(predicted, learnt.original_sizes, strict=True):
        assert len(found) == len(found.boxes) and set(found.labels.tolist()) <= set(range(CLASSES))
        assert found.labels.dtype == torch.int64
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)
        assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([width, height, width, height])).all()
        assert (found.masks is not None) == detector.has_masks
        assert all(mask["size"] == [height, width] for mask in found.masks or ())


def test_models_are_told_where_the_training_stands() -> None:
    """TOOD assigns its objects as ATSS does in the first epochs; BoxInst brings one of its losses in step by step."""
    tood = OpenMMLabDetector(on_swin_nano("TOOD"), CLASSES)
    tood.network.bbox_head.initial_epoch = 1
    boxinst = OpenMMLabDetector(on_swin_nano("BoxInst"), CLASSES)
    boxinst.network.mask_head.warmup_iters = 10
    shares = []
    for epoch, step in ((0, 0), (1, 5), (1, 20)):
        tood.begin_step(epoch, step)
        tood.losses(batch(masks=False))
        assert tood.network.bbox_head.epoch == epoch
        boxinst.begin_step(epoch, step)
        torch.manual_seed(0)
        shares.append(boxinst.losses(batch(masks=True))["loss_mask_pairwise"].item())
    assert shares[2] > 0
    assert shares == pytest.approx([0.0, 0.5 * shares[2], shares[2]])


def test_the_batch_is_resized_where_yolox_wants_it_to() -> None:
    model = copy.deepcopy(packaged("yolox/yolox_tiny_8xb8-300e_coco.py"))
    model.data_preprocessor.batch_augments[0].interval = 2
    detector = OpenMMLabDetector(model, CLASSES)
    seen: list[Any] = []
    detector.network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    for step in range(4):
        detector.begin_step(0, step)
        assert all(torch.isfinite(value) for value in detector.losses(batch(masks=False)).values())
    assert seen[0] == seen[1] == (96, 96) and seen[2] == seen[3] and min(seen[3]) >= 320


@pytest.mark.parametrize(
    ("path", "often"),
    [
        ("yolox/yolox_tiny_8xb8-300e_coco.py", "data_preprocessor.batch_augments.0._interval"),
        ("dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py", "roi_head.train_cfg.dynamic_rcnn.update_iter_interval"),
    ],
)
def test_what_a_model_remembers_beside_its_tensors_is_resumed(path: str, often: str, tmp_path: Path) -> None:
    """YOLOX the size of its batches, Dynamic R-CNN the overlaps and errors that its thresholds follow."""
    model = copy.deepcopy(packaged(path))
    if "batch_augments" in model.data_preprocessor:
        model.data_preprocessor.batch_augments[0].random_size_range = (96, 256)
    else:
        model.backbone = {"type": BACKBONE, "variant": "swin_nano"}
        del model.neck.in_channels
        model.roi_head.bbox_head.fc_out_channels = 16  # which takes a tenth of the time

    def fit(checkpoint: Path | None = None) -> OpenMMLabDetector:
        torch.manual_seed(0)
        detector = OpenMMLabDetector(model, CLASSES)
        owner, _, name = often.rpartition(".")
        setattr(attrgetter(owner)(detector.network), name, 2)
        module = DetectorModule(detector, metric=cast(Any, None), inference=cast(Any, None))
        keeping = ModelCheckpoint(tmp_path, "half", every_n_train_steps=3, save_top_k=-1, enable_version_counter=False)
        kept: dict[str, Any] = {"enable_checkpointing": False} if checkpoint else {"callbacks": [keeping]}
        trainer = Trainer(max_steps=5, accelerator="cpu", logger=False, **kept, **QUIET)
        trainer.fit(module, DataLoader([batch(masks=False)] * 5, batch_size=None), ckpt_path=checkpoint)
        return detector

    once, half = fit(), tmp_path / "half.ckpt"
    assert any(torch.load(half, weights_only=True)["swin_dense"]["model"].values())
    resumed = fit(half)
    assert once.training_state() == resumed.training_state()
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in once.state_dict().items())


def test_centernet_predicts() -> None:
    model = copy.deepcopy(packaged("centernet/centernet_r18_8xb16-crop512-140e_coco.py"))
    model.backbone.init_cfg = None
    detector = OpenMMLabDetector(model, CLASSES).eval()
    learnt = batch(masks=False)
    with torch.no_grad():
        found = detector.predict(learnt)
    assert [len(one) > 0 for one in found] == [True, True]
    with torch.no_grad():
        detector.network.bbox_head.wh_head[-1].bias.fill_(-5)  # sizes may be negative: there is nothing in such a box
        for one in detector.predict(learnt):
            assert (one.boxes[:, 2:] == one.boxes[:, :2]).all()


def test_ssd_learns_and_predicts() -> None:
    """mmdet's own cannot predict: it looks for a loss that this head has in itself."""
    torch.manual_seed(0)
    model = copy.deepcopy(packaged("ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py"))
    detector = OpenMMLabDetector(model, CLASSES)
    learnt = batch(masks=False)
    detector.losses(learnt)["loss_cls"].backward()
    first = next(detector.network.backbone.parameters())
    assert first.grad is not None and first.grad.any()
    with torch.no_grad():
        assert [len(one) > 0 for one in detector.eval().predict(learnt)] == [True, True]


def test_a_box_beside_the_image_has_an_empty_mask_and_the_others_keep_theirs() -> None:
    """As QueryInst may find one, whose boxes nothing clips; mmdet fails there on a CPU."""
    config = load_config("mask-rcnn_swin-nano_shapes")
    roi_head = OpenMMLabDetector(config.model, CLASSES).network.roi_head
    head, settings = roi_head.mask_head, roi_head.test_cfg
    meta = {"img_shape": (60, 80), "ori_shape": (30, 40), "scale_factor": (2.0, 2.0)}
    boxes = torch.tensor([[10.0, 5, 50, 40], [90, 10, 120, 30], [30, -40, 50, -10], [-8, -8, 20, 30], [20, 70, 40, 99]])
    labels, generator = torch.tensor([0, 1, 2, 3, 4]), torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(5, CLASSES, 28, 28, generator=generator)
    inside = torch.tensor([0, 3])
    expected = type(head)._predict_by_feat_single(
        head, logits[inside], boxes[inside], labels[inside], meta, settings, rescale=True
    )
    found = boxes.clone()
    masks = head._predict_by_feat_single(logits, found, labels, meta, settings, rescale=True)
    assert masks.shape == (5, 30, 40) and masks[inside].any((1, 2)).all()
    assert masks[inside].equal(expected) and not masks[[1, 2, 4]].any()
    assert found.equal(boxes / 2)  # mmdet scales them in place


def test_a_package_that_a_model_needs_is_named() -> None:
    model = on_swin_nano("TOOD")
    detector = OpenMMLabDetector(model, CLASSES)

    def loss(inputs: Any, data_samples: Any) -> Any:
        raise ImportError('Please run "pip install sklearn" to install sklearn first.')

    detector.network.loss = loss
    with pytest.raises(InstallationError, match='the model needs a package.*"pip install scikit-learn"'):
        detector.losses(batch(masks=False))


def test_class_weights_follow_the_class_count() -> None:
    model = on_swin_nano("Mask2Former")
    head = OpenMMLabDetector(model, CLASSES).network.panoptic_head
    assert head.num_classes == CLASSES and head.class_weight == [1.0] * CLASSES + [0.1]
    model["panoptic_head"]["loss_cls"]["class_weight"] = [1.0, 2.0, 0.1]
    with pytest.raises(ConfigError, match=r"loss_cls.class_weight has 3 different weights"):
        OpenMMLabDetector(model, CLASSES)


def test_stuff_is_refused_and_instances_are_asked_for() -> None:
    model = copy.deepcopy(packaged(MASK2FORMER_PANOPTIC))
    with pytest.raises(ConfigError, match=r"model.panoptic_head.num_stuff_classes is 53"):
        OpenMMLabDetector(model, CLASSES)
    model = on_swin_nano("Mask2Former")
    model["test_cfg"]["instance_on"] = False
    with pytest.raises(ConfigError, match=r"model.test_cfg.instance_on must be True"):
        OpenMMLabDetector(model, CLASSES)


def test_a_detector_of_boxes_needs_no_masks_and_one_of_masks_says_so() -> None:
    demos = Path(__file__).resolve().parents[3] / "configs" / "demo"
    boxes = OpenMMLabDetector(load_config(demos / "faster-rcnn_swin-nano_shapes.py").model, CLASSES)
    assert all(torch.isfinite(value) for value in boxes.losses(batch(masks=False)).values())
    masks = OpenMMLabDetector(load_config(demos / "mask-rcnn_swin-nano_shapes.py").model, CLASSES)
    with pytest.raises(DataError, match=r"0.jpg comes with boxes alone, but the model learns masks"):
        masks.losses(batch(masks=False))
    with pytest.raises(DataError, match="without instances has no losses: .* that trains on the validation files"):
        boxes.losses(replace(batch(masks=False), instances=None))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("htc/htc_r50_fpn_1x_coco.py", True),
        ("solov2/solov2_r50_fpn_1x_coco.py", True),
        ("rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py", True),
        ("condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py", True),
        ("sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py", False),
        ("dino/dino-4scale_r50_8xb2-12e_coco.py", False),
        ("yolox/yolox_s_8xb8-300e_coco.py", False),
    ],
)
def test_a_model_dict_says_whether_it_has_masks(path: str, expected: bool) -> None:
    assert has_masks(packaged(path)) == expected
