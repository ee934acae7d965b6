"""The published sizes: parameters in millions and multiply-adds in billions at 1280x800."""

from __future__ import annotations

import copy
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

from swin_dense.backbones import create_backbone
from swin_dense.openmmlab.counting import run_detector
from swin_dense.openmmlab.registry import BACKBONE, mmdet_models
from swin_dense.stats import ModelStats, model_stats

SWIN_TINY = {"embed_dims": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
SWIN_SMALL = {"embed_dims": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24]}
SWIN_BASE = {"embed_dims": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}
MASK_RCNN = "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
CASCADE = "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py"
HEAVY_BOX_HEAD = {  # of the official Cascade configs: four convolutions and one linear layer
    "type": "ConvFCBBoxHead",
    "num_shared_convs": 4,
    "num_shared_fcs": 1,
    "conv_out_channels": 256,
    "norm_cfg": {"type": "SyncBN"},
    "reg_class_agnostic": False,
}


@cache
def packaged_model(path: str) -> Any:
    """The model dict of a config that comes with mmdet."""
    import mmdet
    from mmengine.config import Config

    mmdet_models()
    return Config.fromfile(Path(mmdet.__file__).parent / ".mim" / "configs" / path).model


def detector(path: str, backbone: dict[str, Any], outputs: tuple[int, ...] = (0, 1, 2, 3)) -> Any:
    """A packaged detector on mmdet's own Swin, or on ours where a variant is named."""
    model = copy.deepcopy(packaged_model(path))
    if "variant" in backbone:
        model.backbone = {"type": BACKBONE, "out_indices": outputs, **backbone}
    else:
        model.backbone = {"type": "SwinTransformer", "window_size": 7, "out_indices": outputs, **backbone}
    width = backbone.get("embed_dims", 96)
    model.neck.in_channels = [width * 2**i for i in outputs]
    model.neck.start_level = 0
    if path == CASCADE:
        for head in model.roi_head.bbox_head:
            head.update(HEAVY_BOX_HEAD)
    return mmdet_models().build({**model, "_scope_": "mmdet"})


def stats_at_1280x800(network: Any) -> ModelStats:
    return model_stats(network, partial(run_detector, height=800, width=1280))


@pytest.mark.parametrize(
    ("path", "backbone", "million_params", "billion_macs"),
    [
        pytest.param(MASK_RCNN, {"variant": "swin_tiny"}, 48, 267, id="Mask R-CNN on our Swin-T"),
        pytest.param(MASK_RCNN, {"variant": "swin_small"}, 69, 359, id="Mask R-CNN on our Swin-S"),
        pytest.param(MASK_RCNN, SWIN_TINY, 48, 267, id="Mask R-CNN Swin-T"),
        pytest.param(MASK_RCNN, SWIN_SMALL, 69, 359, id="Mask R-CNN Swin-S"),
        pytest.param(CASCADE, SWIN_TINY, 86, 745, id="Cascade Mask R-CNN Swin-T"),
        pytest.param(CASCADE, SWIN_SMALL, 107, 838, id="Cascade Mask R-CNN Swin-S"),
        pytest.param(CASCADE, SWIN_BASE, 145, 982, id="Cascade Mask R-CNN Swin-B"),
    ],
)
def test_published_sizes_are_met(
    path: str, backbone: dict[str, Any], million_params: float, billion_macs: float
) -> None:
    stats = stats_at_1280x800(detector(path, backbone))
    assert stats.params / 1e6 == pytest.approx(million_params, rel=0.005)
    assert stats.macs / 1e9 == pytest.approx(billion_macs, rel=0.005)
    assert sum(part.macs for part in stats.parts.values()) == stats.macs
    assert sum(part.params for part in stats.parts.values()) == stats.params


def test_a_backbone_counts_what_the_paper_says() -> None:
    """Patch embedding, equation 2 of the Swin paper plus the MLP for each block, patch merging; Table 1 says 4.5 G."""
    tokens, width, expected = 56 * 56, 96, 56 * 56 * 48 * 96
    for depth in (2, 2, 6, 2):
        attention = 4 * tokens * width**2 + 2 * 7**2 * tokens * width
        mlp = 2 * tokens * width * 4 * width
        expected += depth * (attention + mlp)
        if width < 768:  # merging four tokens of width C into one of 2C, then on with a quarter of the tokens
            expected += tokens // 4 * (4 * width) * (2 * width)
            tokens, width = tokens // 4, 2 * width
    backbone = create_backbone("swin_tiny")
    stats = model_stats(backbone, lambda model: model(torch.empty(1, 3, 224, 224, device=model.norm0.weight.device)))
    assert stats.macs == expected
    assert round(expected / 1e9, 1) == 4.5


def test_a_one_stage_detector_is_its_backbone_neck_and_head() -> None:
    stats = stats_at_1280x800(detector("atss/atss_r50_fpn_1x_coco.py", SWIN_TINY, outputs=(1, 2, 3)))
    assert set(stats.parts) == {"backbone", "neck", "bbox_head"}
    assert round(stats.params / 1e6) == 36
    assert stats.macs / 1e9 == pytest.approx(215, rel=0.005)


def test_sparse_rcnn_runs_its_dynamic_heads_on_its_learnt_proposals() -> None:
    stats = stats_at_1280x800(detector("sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py", SWIN_TINY))
    assert round(stats.params / 1e6) == 110
    # Per proposal and stage: self-attention, dynamic layer of 2 x 256 x 64, its two products on 7x7, flattening, FFN.
    proposals, width, hidden, area = 100, 256, 64, 49
    attention = 4 * width**2 + 2 * proposals * width
    dynamic = width * 2 * width * hidden + 2 * area * width * hidden + area * width**2
    ffn_and_towers = 2 * width * 2048 + width**2 + 3 * width**2 + width * 80 + width * 4
    assert stats.parts["roi_head.bbox_head"].macs == 6 * proposals * (attention + dynamic + ffn_and_towers)


def test_htc_counts_its_semantic_branch_and_every_mask_stage() -> None:
    parts = stats_at_1280x800(detector("htc/htc_r50_fpn_1x_coco.py", SWIN_TINY)).parts
    one_mask_head = 100 * (14 * 14 * (4 * 9 * 256**2 + 4 * 256**2) + 28 * 28 * 256 * 80)
    mask_information_flow = 2 * 100 * 14 * 14 * 256**2  # into the second and third stage
    assert parts["roi_head.mask_head"].macs == 3 * one_mask_head + mask_information_flow
    assert "roi_head.semantic_head" in parts


def test_other_detectors_run_their_one_forward_pass() -> None:
    model = copy.deepcopy(packaged_model("detr/detr_r50_8xb2-150e_coco.py"))
    model.backbone.init_cfg = None
    parts = stats_at_1280x800(mmdet_models().build({**model, "_scope_": "mmdet"})).parts
    assert {"backbone", "neck", "encoder", "decoder"} <= set(parts)
