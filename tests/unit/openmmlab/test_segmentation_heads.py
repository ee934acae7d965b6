"""Other encoder-decoders of mmseg learn and predict on our backbone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from swin_dense.errors import ConfigError
from swin_dense.openmmlab.segmentation import OpenMMLabSegmenter
from swin_dense.records import IGNORE_INDEX, Batch

CLASSES = 5
BACKBONE = {"type": "SwinDense", "variant": "swin_nano"}
PREPROCESSOR = {
    "type": "SegDataPreProcessor",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "bgr_to_rgb": True,
    "size": (64, 64),
}
HEAD = {"channels": 16, "num_classes": 19, "norm_cfg": {"type": "GN", "num_groups": 4}}
FPN = {"type": "FPN", "out_channels": 16, "num_outs": 4}
FPN_HEAD = {
    **HEAD,
    "type": "FPNHead",
    "in_index": [0, 1, 2, 3],
    "in_channels": [16, 16, 16, 16],
    "feature_strides": [4, 8, 16, 32],
}
SEGFORMER = {"decode_head": {**HEAD, "type": "SegformerHead", "in_index": [0, 1, 2, 3]}}
SEMANTIC_FPN = {"neck": FPN, "decode_head": FPN_HEAD}
PSP = {
    "backbone": {**BACKBONE, "out_indices": (2, 3)},
    "decode_head": {**HEAD, "type": "PSPHead", "in_index": 1},
    "auxiliary_head": [{**HEAD, "type": "FCNHead", "in_index": 0, "num_convs": 1}],
}
OCR = {
    "type": "CascadeEncoderDecoder",
    "num_stages": 2,
    "backbone": {**BACKBONE, "out_indices": (3,)},
    "decode_head": [
        {**HEAD, "type": "FCNHead", "in_index": 0, "num_convs": 1},
        {**HEAD, "type": "OCRHead", "in_index": 0, "ocr_channels": 8},
    ],
}
POINT_REND = {
    "type": "CascadeEncoderDecoder",
    "num_stages": 2,
    "neck": FPN,
    "decode_head": [
        FPN_HEAD,
        {
            "type": "PointHead",
            "in_channels": [16],
            "in_index": [0],
            "channels": 16,
            "num_fcs": 1,
            "coarse_pred_each_layer": True,
            "num_classes": 19,
        },
    ],
    "train_cfg": {"num_points": 64, "oversample_ratio": 3, "importance_sample_ratio": 0.75},
    "test_cfg": {"mode": "whole", "subdivision_steps": 2, "subdivision_num_points": 64, "scale_factor": 2},
}
RESNET = {  # a backbone of mmseg
    "backbone": {"type": "ResNetV1c", "depth": 18, "base_channels": 8, "norm_cfg": {"type": "SyncBN"}},
    "decode_head": {**HEAD, "type": "ASPPHead", "in_index": 3, "in_channels": 64, "dilations": (1, 2)},
}


def labels() -> Tensor:
    """(64, 64): the left half is of class 1 and the right one of class 3; the uppermost rows have none."""
    label_map = torch.full((64, 64), 3, dtype=torch.int32)
    label_map[:, :32] = 1
    label_map[:6] = IGNORE_INDEX
    return label_map


def batch() -> Batch:
    """Twice the same image, dark where there is class 1."""
    images = torch.where(labels() == 1, 40, 200).to(torch.uint8).expand(2, 3, 64, 64)
    sizes = ((64, 64), (64, 64))
    return Batch(images, sizes, sizes, (0, 1), ("0.jpg", "1.jpg"), label_maps=(labels(), labels()))


@pytest.mark.parametrize(
    ("model", "stride", "decode_terms"),
    [
        pytest.param(SEGFORMER, 4, {"decode"}, id="SegFormer"),
        pytest.param(SEMANTIC_FPN, 4, {"decode"}, id="FPN"),
        pytest.param(PSP, 32, {"decode", "aux_0"}, id="PSP"),
        pytest.param(OCR, 32, {"decode_0", "decode_1"}, id="OCR"),
        pytest.param(POINT_REND, 1, {"decode_0", "decode_1"}, id="PointRend, with a way of its own to predict"),
        pytest.param(RESNET, 32, {"decode"}, id="mmseg's ResNet"),
    ],
)
def test_it_learns_and_predicts(model: dict[str, Any], stride: int, decode_terms: set[str]) -> None:
    torch.manual_seed(0)
    segmenter = OpenMMLabSegmenter(
        {
            "type": "EncoderDecoder",
            "data_preprocessor": PREPROCESSOR,
            "backbone": BACKBONE,
            "train_cfg": {},
            "test_cfg": {"mode": "whole"},
            **model,
        },
        CLASSES,
    )
    optimizer = torch.optim.AdamW(segmenter.parameters(), 5e-3)
    totals = []
    for _ in range(10):
        terms = segmenter.train().losses(batch())
        total = sum(value for name, value in terms.items() if "loss" in name)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert {name.split(".")[0] for name in terms} == decode_terms
    assert [name for name, parameter in segmenter.named_parameters() if parameter.grad is None] == []
    assert totals[-1] < 0.8 * totals[0]

    with torch.no_grad():
        logits = segmenter.eval().logits(batch().images)
    assert logits.shape == (2, CLASSES, 64 // stride, 64 // stride) and logits.dtype == torch.float32
    resized = nn.functional.interpolate(logits, (64, 64), mode="bilinear", align_corners=segmenter.align_corners)
    right = resized.argmax(1) == labels()
    assert right[:, 6:].float().mean() > 0.8


def test_weights_of_the_classes_of_another_data_set_are_refused() -> None:
    loss: dict[str, Any] = {"type": "CrossEntropyLoss", "class_weight": [1.0, 2.0, 3.0]}
    head = {**SEGFORMER["decode_head"], "loss_decode": [{"type": "DiceLoss"}, loss]}
    model = {"type": "EncoderDecoder", "data_preprocessor": PREPROCESSOR, "backbone": BACKBONE, "decode_head": head}
    message = r"loss_decode.1.class_weight has 3 different weights, but there are 5 classes; give one for each"
    with pytest.raises(ConfigError, match=message):
        OpenMMLabSegmenter(model, CLASSES)
    loss["class_weight"] = [0.5] * 19
    assert OpenMMLabSegmenter(model, CLASSES).network.decode_head.loss_decode[1].class_weight == [0.5] * CLASSES


def test_a_hamburger_predicts_the_same_each_time_and_in_any_batch() -> None:
    """Its bases are drawn in every pass; SegNeXt has one."""
    head = {**HEAD, "type": "LightHamHead", "in_index": [1, 2, 3], "ham_channels": 16, "ham_kwargs": {"MD_R": 4}}
    model = {"type": "EncoderDecoder", "data_preprocessor": PREPROCESSOR, "backbone": BACKBONE, "decode_head": head}
    torch.manual_seed(0)
    segmenter = OpenMMLabSegmenter(model, CLASSES).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        first, again = segmenter.logits(images), copy.deepcopy(segmenter).logits(images)
        alone = segmenter.logits(images[1:])
        assert torch.equal(first, again)
        torch.testing.assert_close(first[1:], alone)
        segmenter.train()
        assert not torch.equal(segmenter.logits(images), segmenter.logits(images))
