"""Which tensors weights of other classes cannot fill, found in models of every kind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swin_dense.config import load_config
from swin_dense.openmmlab import detection, segmentation
from swin_dense.openmmlab.model_dicts import class_dependent_tensors

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def found(name: str, change: Callable[[dict[str, Any]], None] = lambda model: None) -> list[str]:
    config = load_config(CONFIGS / name)
    model = copy.deepcopy(config.model)
    change(model)
    build = segmentation.build_network if config.task == "segmentation" else detection.build_network
    return class_dependent_tensors(model, build)


def layers(*names: str) -> list[str]:
    return [f"{name}.{leaf}" for name in names for leaf in ("weight", "bias")]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            "detection/mask-rcnn_swin-t_fpn_1x_coco.py",
            layers("roi_head.bbox_head.fc_cls", "roi_head.bbox_head.fc_reg", "roi_head.mask_head.conv_logits"),
        ),
        ("detection/atss_swin-t_fpn_3x_coco.py", layers("bbox_head.atss_cls")),
        (
            "detection/sparse-rcnn_swin-t_fpn_3x_coco.py",
            layers(*(f"roi_head.bbox_head.{stage}.fc_cls" for stage in range(6))),
        ),
        ("segmentation/upernet_swin-t_512_160k_ade20k.py", layers("decode_head.conv_seg", "auxiliary_head.conv_seg")),
    ],
    ids=["mask-rcnn", "atss", "sparse-rcnn", "upernet"],
)
def test_they_are_found_in_our_systems(config: str, expected: list[str]) -> None:
    assert found(config) == expected


def test_what_is_the_same_for_every_class_is_not_among_them() -> None:
    def agnostic(model: dict[str, Any]) -> None:
        model["roi_head"]["bbox_head"]["reg_class_agnostic"] = True
        model["roi_head"]["mask_head"]["class_agnostic"] = True

    assert found("demo/mask-rcnn_swin-nano_shapes.py", agnostic) == layers("roi_head.bbox_head.fc_cls")


def test_weights_of_single_classes_do_not_stand_in_the_way() -> None:
    """They are as many as the data has classes, which is not the number that shapes are compared for."""

    def weighted(model: dict[str, Any]) -> None:
        model["roi_head"]["bbox_head"]["loss_cls"]["class_weight"] = [1.0, 2.0, 3.0, 4.0, 5.0, 0.5]

    assert len(found("demo/mask-rcnn_swin-nano_shapes.py", weighted)) == 6


def test_buffers_count_too() -> None:
    def seesaw(model: dict[str, Any]) -> None:
        model["roi_head"]["bbox_head"]["loss_cls"] = {"type": "SeesawLoss", "num_classes": 80}

    assert "roi_head.bbox_head.loss_cls.cum_samples" in found("demo/mask-rcnn_swin-nano_shapes.py", seesaw)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "dino/dino-4scale_r50_8xb2-12e_coco",
            {*layers(*(f"bbox_head.cls_branches.{i}" for i in range(7))), "dn_query_generator.label_embedding.weight"},
        ),
        ("mask2former/mask2former_r50_8xb2-lsj-50e_coco", set(layers("panoptic_head.cls_embed"))),
        ("pvt/retinanet_pvtv2-b0_fpn_1x_coco", set(layers("bbox_head.retina_cls"))),
        ("ssd/ssd300_coco", set(layers(*(f"bbox_head.cls_convs.{i}.0" for i in range(6))))),
    ],
    ids=["embeddings of labels for denoising", "queries", "drop path rates that are read", "tuples that are asked for"],
)
def test_they_are_found_in_models_of_mmdet(name: str, expected: set[str]) -> None:
    assert set(class_dependent_tensors(packaged(name), detection.build_network)) == expected


def packaged(name: str) -> dict[str, Any]:
    """A model dict that mmdet brings, without what would download weights."""
    import mmdet
    from mmengine.config import Config

    folder = Path(mmdet.__file__).parent / ".mim" / "configs"
    model: dict[str, Any] = Config.fromfile(folder / f"{name}.py").model.to_dict()
    model["backbone"]["init_cfg"] = None
    model["data_preprocessor"].pop("batch_augments", None)
    return model
