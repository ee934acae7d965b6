"""Whole detectors and segmenters between mmdet, mmseg, transformers, the official names and ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.random_values import randomised
from helpers.small_swin import equal
from swin_dense.backbones.swin import SwinTransformer
from swin_dense.openmmlab.registry import mmseg_models
from swin_dense.weights import convert_state_dict, convert_weights, load_weights

WIDTH, DEPTHS, HEADS, WINDOW = 24, (1, 1, 2, 1), (1, 2, 4, 8), 4
BACKBONE = {"embed_dims": WIDTH, "depths": DEPTHS, "num_heads": HEADS, "window_size": WINDOW, "drop_path_rate": 0.0}
CHANNELS = [WIDTH * 2**i for i in range(4)]


def detector() -> nn.Module:
    import mmdet
    from mmdet.registry import MODELS
    from mmengine.config import Config

    config = Config.fromfile(Path(mmdet.__file__).parent / ".mim/configs/_base_/models/mask-rcnn_r50_fpn.py").model
    config.backbone = {"type": "SwinTransformer", **BACKBONE}
    config.neck.in_channels = CHANNELS
    config.roi_head.bbox_head.fc_out_channels = 16
    return randomised(MODELS.build({**config, "_scope_": "mmdet"}))


def segmenter() -> nn.Module:
    head = {"num_classes": 5, "dropout_ratio": 0.0, "align_corners": False, "norm_cfg": {"type": "BN"}}
    return (
        mmseg_models()
        .build(
            {
                "_scope_": "mmseg",
                "type": "EncoderDecoder",
                "backbone": {"type": "SwinTransformer", **BACKBONE},
                "decode_head": {
                    "type": "UPerHead",
                    "in_channels": CHANNELS,
                    "in_index": [0, 1, 2, 3],
                    "channels": 8,
                    **head,
                },
                "auxiliary_head": {"type": "FCNHead", "in_channels": CHANNELS[2], "in_index": 2, "channels": 6, **head},
                "train_cfg": {},
                "test_cfg": {"mode": "whole"},
            }
        )
        .eval()
    )


def huggingface_segmenter() -> Any:
    transformers = pytest.importorskip("transformers")
    backbone = transformers.SwinConfig(
        image_size=256,
        embed_dim=WIDTH,
        depths=list(DEPTHS),
        num_heads=list(HEADS),
        window_size=WINDOW,
        out_features=[f"stage{i}" for i in range(1, 5)],
    )
    config = transformers.UperNetConfig(
        backbone_config=backbone,
        num_labels=5,
        hidden_size=8,
        auxiliary_channels=6,
        auxiliary_num_convs=2,
        auxiliary_concat_input=True,
    )
    model = randomised(transformers.UperNetForSemanticSegmentation(config))
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 2.0)
    return model


@pytest.mark.parametrize("through", ["swin-dense", "official"])
def test_a_detector_comes_back_bit_by_bit(through: str) -> None:
    state = detector().state_dict()
    converted, report = convert_state_dict({f"module.{key}": value for key, value in state.items()}, through)
    assert report.format == "openmmlab"
    assert {"backbone.layers.0.downsample.reduction.weight", "roi_head.mask_head.conv_logits.bias"} < converted.keys()
    back, _ = convert_state_dict(converted, "openmmlab")
    assert equal(back, state)
    assert all(back[key].dtype == value.dtype for key, value in state.items())


def test_a_huggingface_segmenter_computes_the_same_in_mmseg(tmp_path: Path) -> None:
    reference = huggingface_segmenter()
    reference.save_pretrained(tmp_path)
    report = convert_weights(tmp_path / "model.safetensors", tmp_path / "mmseg.pth", "openmmlab")
    assert {note.name for note in report.skipped} == {f"backbone.swin.layernorm.{leaf}" for leaf in ("weight", "bias")}
    model = segmenter()
    model.load_state_dict(torch.load(tmp_path / "mmseg.pth", weights_only=True), strict=True)
    images = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        theirs = reference(images).logits
        assert_close(model.encode_decode(images, [{"img_shape": (256, 256)}]), theirs)
        features = reference.backbone(images).feature_maps
        assert_close(model.auxiliary_head(model.extract_feat(images)), reference.auxiliary_head(features))


def test_a_huggingface_segmenter_is_loaded_whole_into_a_segmenter_around_our_backbone(tmp_path: Path) -> None:
    reference = huggingface_segmenter()
    reference.save_pretrained(tmp_path)
    model = segmenter()
    model.backbone = SwinTransformer(WIDTH, DEPTHS, HEADS, WINDOW).eval()
    report = load_weights(model, tmp_path / "model.safetensors")
    assert report.format == "huggingface" and not report.missing
    assert [note.reason for note in report.skipped] == ["last norm of a classifier"] * 2
    images = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        assert_close(model.encode_decode(images, [{"img_shape": (256, 256)}]), reference(images).logits)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
