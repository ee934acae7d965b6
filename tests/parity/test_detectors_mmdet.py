"""The same weights, images and seed give the losses and detections of mmdet's own detectors on its Swin Transformer.

Mmdet's side is driven as mmdet drives it: its data set and pipeline (BGR), its preprocessor, `DetDataSample`.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision import tv_tensors

from helpers.random_values import randomised
from swin_dense.config import load_config
from swin_dense.data.coco import CocoDataset
from swin_dense.data.transforms import RandomShortSide
from swin_dense.migration import convert_config
from swin_dense.openmmlab.detection import OpenMMLabDetector, encode_masks
from swin_dense.openmmlab.model_dicts import has_masks
from swin_dense.openmmlab.registry import mmdet_models
from swin_dense.records import Batch, Rle, collate
from swin_dense.weights import convert_weights, load_weights, save_weights

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CLASSES = 80
SWIN_NANO = {"embed_dims": 32, "depths": (2, 2, 2, 2), "num_heads": (2, 4, 8, 16), "window_size": 4}
IMAGES = (87038, 329323)
"""Of val2017: landscape with 17 annotations and portrait with 14, a crowd region in each."""
SHORT_SIDE, LONG_SIDE = 128, 213
SYSTEMS = ["mask-rcnn", "cascade-mask-rcnn", "atss", "sparse-rcnn"]


def pair(reference: dict[str, Any], ours: dict[str, Any]) -> tuple[Any, OpenMMLabDetector]:
    """Mmdet's detector with random weights, and ours with the same ones."""
    from mmengine.config import ConfigDict
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        theirs = randomised(mmdet_models().build(ConfigDict(copy.deepcopy(reference))))
    if reference["type"] == "SparseRCNN":  # centre and size of its proposals, as parts of the image
        theirs.rpn_head.init_proposal_bboxes.weight.uniform_(0.3, 0.7, generator=torch.Generator().manual_seed(2))
    detector = OpenMMLabDetector(ours, CLASSES)
    report = load_weights(detector.network, {"state_dict": theirs.state_dict()})
    assert report.format in ("openmmlab", "same names") and not report.missing
    return theirs, detector


@cache
def small(system: str) -> tuple[Any, OpenMMLabDetector]:
    """The demo model of a system, which keeps its best detections, whatever their scores."""
    ours = copy.deepcopy(load_config(CONFIGS / "demo" / f"{system}_swin-nano_shapes.py").model)
    test = ours["test_cfg"].get("rcnn") or ours["test_cfg"]
    test.update({"score_thr": 0.0} if "score_thr" in test else {}, max_per_img=25)
    reference = copy.deepcopy(ours)
    reference["backbone"] = {"type": "SwinTransformer", "drop_path_rate": 0.0, **SWIN_NANO}
    reference["neck"]["in_channels"] = [32, 64, 128, 256]
    return pair(reference, ours)


@cache
def mmdet_data(root: Path, masks: bool) -> dict[str, list[Any]]:
    """What mmdet's own pipeline makes of the images, before its preprocessor."""
    from mmdet.datasets import CocoDataset as MMDetCocoDataset
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = MMDetCocoDataset(
            ann_file=str(root / "annotations" / "instances_val2017.json"),
            data_prefix={"img": str(root / "val2017")},
            pipeline=[
                {"type": "LoadImageFromFile", "imdecode_backend": "pillow"},
                {"type": "LoadAnnotations", "with_bbox": True, "with_mask": masks},
                {"type": "Resize", "scale": (LONG_SIDE, SHORT_SIDE), "keep_ratio": True},
                {"type": "PackDetInputs"},
            ],
        )
        places = {dataset.get_data_info(i)["img_id"]: i for i in range(len(dataset))}
        packed = [dataset[places[image_id]] for image_id in IMAGES]
    return {key: [one[key] for one in packed] for key in ("inputs", "data_samples")}


@cache
def our_batch(root: Path, masks: bool) -> Batch:
    """Our own reading and resizing of annotations; pixels are theirs, as interpolation may differ by a grey level."""
    dataset = CocoDataset(root / "annotations" / "instances_val2017.json", root / "val2017", masks=masks)
    samples = [dataset[dataset.image_ids.tolist().index(image_id)] for image_id in IMAGES]
    resized = [RandomShortSide((SHORT_SIDE,), LONG_SIDE)(sample) for sample in samples]
    images = [image.flip(0) for image in mmdet_data(root, masks)["inputs"]]  # from BGR to RGB
    for sample, image in zip(resized, images, strict=True):
        assert (sample.image.int() - image.int()).abs().max() <= 1
    return collate([replace(one, image=tv_tensors.Image(image)) for one, image in zip(resized, images, strict=True)])


def assert_equal_losses(theirs: Any, ours: OpenMMLabDetector, root: Path) -> None:
    theirs.train(), ours.train()
    data = theirs.data_preprocessor(copy.deepcopy(mmdet_data(root, ours.has_masks)), training=True)
    batch = our_batch(root, ours.has_masks)
    torch.manual_seed(3)
    terms = theirs.loss(data["inputs"], data["data_samples"])
    expected = {name: sum(value) if isinstance(value, list) else value for name, value in terms.items()}
    torch.manual_seed(3)
    losses = ours.losses(batch)
    assert losses.keys() == expected.keys()
    for name, value in losses.items():
        assert value.item() == pytest.approx(float(expected[name]), rel=1e-5), name


def assert_equal_detections(theirs: Any, ours: OpenMMLabDetector, root: Path) -> None:
    theirs.eval(), ours.eval()
    data = theirs.data_preprocessor(copy.deepcopy(mmdet_data(root, ours.has_masks)), training=False)
    expected = [one.pred_instances for one in theirs.predict(data["inputs"], data["data_samples"], rescale=True)]
    for found, wanted in zip(ours.predict(our_batch(root, ours.has_masks)), expected, strict=True):
        order = wanted.scores.argsort(descending=True, stable=True)
        assert len(found) == len(order) == 25
        assert_close(found.scores, wanted.scores[order])
        assert torch.equal(found.labels, wanted.labels[order])
        assert_close(found.boxes, wanted.bboxes[order])
        assert (found.masks is not None) == ours.has_masks
        if found.masks is not None:
            assert_equal_masks(found.masks, encode_masks(wanted.masks[order]))


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape and theirs.norm() > 0
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def assert_equal_masks(ours: list[Rle], theirs: list[Rle]) -> None:
    """But for the pixels, one in ten thousand, whose probability is a half to the last digit."""
    from pycocotools import mask as coco_mask

    ours_and_theirs = coco_mask.area([coco_mask.merge(both, True) for both in zip(ours, theirs, strict=True)])
    either = coco_mask.area([coco_mask.merge(both) for both in zip(ours, theirs, strict=True)])
    assert ours_and_theirs.sum() >= (1 - 1e-4) * either.sum() > 0


@pytest.mark.parametrize("system", SYSTEMS)
@torch.no_grad()
def test_losses(system: str, shared_data: Path) -> None:
    assert_equal_losses(*small(system), shared_data / "coco2017_tiny")


@pytest.mark.parametrize("system", SYSTEMS)
@torch.no_grad()
def test_detections(system: str, shared_data: Path) -> None:
    assert_equal_detections(*small(system), shared_data / "coco2017_tiny")


def packaged(name: str) -> dict[str, Any]:
    """A model that mmdet packages, without its pretrained weights; it keeps its best detections."""
    import mmdet
    from mmengine.config import Config

    mmdet_models()
    reference: dict[str, Any] = Config.fromfile(Path(mmdet.__file__).parent / f".mim/configs/swin/{name}.py").model
    reference["backbone"]["init_cfg"] = None
    return keeping_the_best(reference)


def keeping_the_best(model: dict[str, Any]) -> dict[str, Any]:
    test = model["test_cfg"]
    if test.get("rpn"):
        test["rpn"]["max_per_img"] = 100
    last = test.get("rcnn") or test
    last.update({"score_thr": 0.0} if "score_thr" in last else {}, max_per_img=25)
    return model


@torch.no_grad()
def test_the_shipped_swin_t_mask_rcnn_is_the_model_that_mmdet_packages(shared_data: Path) -> None:
    ours = keeping_the_best(load_config(CONFIGS / "detection" / "mask-rcnn_swin-t_fpn_1x_coco.py").model)
    assert has_masks(ours)
    theirs, detector = pair(packaged("mask-rcnn_swin-t-p4-w7_fpn_1x_coco"), ours)
    assert sum(one.numel() for one in detector.parameters()) == sum(one.numel() for one in theirs.parameters())
    assert_equal_detections(theirs, detector, shared_data / "coco2017_tiny")


CONVERTED = [
    "swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco",
    "swin/retinanet_swin-t-p4-w7_fpn_1x_coco",
    "mask_rcnn/mask-rcnn_r50_fpn_1x_coco",
    "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco",
    "atss/atss_r50_fpn_1x_coco",
    "sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco",
]


def reduced(name: str, file: Path) -> dict[str, Any]:
    """Writes a config that mmdet packages, with narrow layers and two stages of a cascade; its model dict."""
    import mmdet
    from mmengine.config import Config

    mmdet_models()
    values = Config.fromfile(Path(mmdet.__file__).parent / f".mim/configs/{name}.py").to_dict()
    model: dict[str, Any] = values["model"]
    narrow = {**SWIN_NANO, "drop_path_rate": 0.0} if "swin" in name else {"base_channels": 8}
    model["backbone"] |= {**narrow, "init_cfg": None}
    levels = len(model["neck"]["in_channels"])
    narrow_channels([part for name, part in model.items() if name != "backbone"])
    model["neck"]["in_channels"] = [32, 64, 128, 256][-levels:]
    heads = model.get("roi_head", {}).get("bbox_head", [])
    if isinstance(heads, list) and heads:
        stages = {key: heads_of[:2] for key, heads_of in model["roi_head"].items() if isinstance(heads_of, list)}
        model["roi_head"] |= {**stages, "num_stages": 2}
        model["train_cfg"]["rcnn"] = model["train_cfg"]["rcnn"][:2]
    file.write_text(json.dumps(values))
    return keeping_the_best(model)


def narrow_channels(part: Any) -> None:
    """Makes 64 of the channels of every layer that has more, but for masks, which are empty then."""
    for item in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        narrow_channels(item)
    if isinstance(part, dict):
        wide = {key for key, value in part.items() if "channel" in key and type(value) is int and value > 64}
        part |= dict.fromkeys(wide - {"conv_out_channels"}, 64)


@pytest.mark.parametrize("name", CONVERTED)
@torch.no_grad()
def test_a_converted_config_is_the_model_that_mmdet_packages(name: str, shared_data: Path, tmp_path: Path) -> None:
    """Losses, detections, and the names of parameters once the weights are converted."""
    reference = reduced(name, tmp_path / "theirs.json")
    ours = keeping_the_best(convert_config(tmp_path / "theirs.json").config.model)
    theirs, detector = pair(reference, ours)
    save_weights(detector.network, tmp_path / "theirs.safetensors")
    if ours["backbone"]["type"] == "SwinDense":
        (tmp_path / "theirs.safetensors").rename(tmp_path / "ours.safetensors")
        convert_weights(tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors", "openmmlab")
    computed = {key for key in theirs.state_dict() if key.endswith("relative_position_index")}
    assert load_file(tmp_path / "theirs.safetensors").keys() | computed == theirs.state_dict().keys()
    assert bool(computed) == ("swin" in name)
    assert_equal_losses(theirs, detector, shared_data / "coco2017_tiny")
    assert_equal_detections(theirs, detector, shared_data / "coco2017_tiny")
