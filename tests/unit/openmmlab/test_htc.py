"""HTC++: the global attention block, its published sizes, and a semantic branch that learns from label maps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import tv_tensors

from swin_dense.config import load_config
from swin_dense.errors import DataError
from swin_dense.openmmlab.counting import run_detector
from swin_dense.openmmlab.detection import OpenMMLabDetector, build_network
from swin_dense.openmmlab.heads.necks import GlobalAttention
from swin_dense.records import IGNORE_INDEX, Instances, Sample, collate
from swin_dense.stats import model_stats

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
STUFF_CLASSES = 183


def test_global_attention_is_a_pre_norm_transformer_block_on_the_last_map() -> None:
    torch.manual_seed(0)
    block = GlobalAttention([16, 64])
    for parameter in block.parameters():
        parameter.data = 0.2 * torch.randn_like(parameter)
    reference = nn.TransformerEncoderLayer(
        64, nhead=2, dim_feedforward=256, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    ours = block.state_dict()
    names = {
        "self_attn.in_proj_": "qkv.",
        "self_attn.out_proj.": "proj.",
        "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    reference.load_state_dict(
        {theirs + kind: ours[own + kind] for theirs, own in names.items() for kind in ("weight", "bias")}
    )
    fine, last = torch.randn(2, 16, 6, 10), torch.randn(2, 64, 3, 5)
    kept, attended = block([fine, last])
    assert kept is fine
    expected = reference(last.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(last)
    torch.testing.assert_close(attended, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("letter", "million_params", "billion_macs"), [("b", 160, 1043), ("l", 284, 1470)])
def test_published_sizes_are_met(letter: str, million_params: int, billion_macs: int) -> None:
    """The Swin paper, table 2c; multiply-adds to the last digit at 800x1280."""
    with torch.device("meta"):
        network = build_network(load_config(CONFIGS / f"detection/htc-pp_swin-{letter}_fpn_6x_coco.py").model, 80)
    assert network.roi_head.semantic_head.num_classes == STUFF_CLASSES
    stats = model_stats(network, lambda model: run_detector(model, 800, 1280))
    assert stats.params / 1e6 == pytest.approx(million_params, rel=0.005)
    assert round(stats.macs / 1e9) == billion_macs


def sample(height: int, width: int, seed: int, stuff: bool) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    boxes = torch.tensor([[4.0, 6.0, 40.0, 50.0], [10.0, 20.0, 60.0, 60.0]])
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    instances = Instances(
        tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
        tv_tensors.Mask(masks),
        torch.tensor([0, 2]),
        torch.tensor([False, False]),
    )
    label_map = torch.randint(IGNORE_INDEX, STUFF_CLASSES, (height, width), generator=generator, dtype=torch.int32)
    stuff_map = tv_tensors.Mask(label_map) if stuff else None
    return Sample(tv_tensors.Image(image), seed, f"{seed}.jpg", (height, width), instances, stuff_map)


@pytest.fixture(scope="module")
def model() -> dict[str, Any]:
    """The small HTC of the demo with the semantic branch of HTC++."""
    small = copy.deepcopy(load_config(CONFIGS / "demo/htc_swin-nano_shapes.py").model)
    large = load_config(CONFIGS / "detection/htc-pp_swin-b_fpn_6x_coco.py").model
    small["data_preprocessor"] = large["data_preprocessor"]
    for name in ("semantic_head", "semantic_roi_extractor"):
        small["roi_head"][name] = copy.deepcopy(large["roi_head"][name])
    small["roi_head"]["semantic_head"] |= {"in_channels": 64, "conv_out_channels": 64}
    small["roi_head"]["semantic_roi_extractor"]["out_channels"] = 64
    return small


def test_the_semantic_branch_learns_the_label_maps_of_the_batch(model: dict[str, Any]) -> None:
    torch.manual_seed(0)
    detector = OpenMMLabDetector(model, num_classes=5)
    assert detector.has_semantic_branch
    assert [head.num_classes for head in detector.network.roi_head.mask_head] == [5, 5, 5]
    samples = [sample(64, 96, 1, stuff=True), sample(90, 70, 2, stuff=True)]
    said: list[torch.Tensor] = []
    semantic_head = detector.network.roi_head.semantic_head
    hook = semantic_head.register_forward_hook(lambda head, inputs, outputs: said.append(outputs[0]))
    terms = detector.losses(collate(samples))
    hook.remove()
    truth = torch.full((2, 96, 96), IGNORE_INDEX)
    for target, one in zip(truth, samples, strict=True):
        assert one.label_map is not None
        target[: one.size[0], : one.size[1]] = one.label_map
    expected = functional.cross_entropy(said[0], truth[:, ::8, ::8].long(), ignore_index=IGNORE_INDEX, reduction="sum")
    torch.testing.assert_close(terms["loss_semantic_seg"], 0.2 * expected / truth[:, ::8, ::8].numel())
    sum(value for name, value in terms.items() if "loss" in name).backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []


def test_boxes_keep_their_precision_under_autocast(model: dict[str, Any]) -> None:
    """RoI extractors round boxes to the type of the maps that they pool from."""
    detector = OpenMMLabDetector(model, num_classes=5).eval()
    roi_head, types = detector.network.roi_head, []
    for extractor in (roi_head.bbox_roi_extractor[0], roi_head.semantic_roi_extractor):
        extractor.register_forward_pre_hook(lambda module, inputs: types.append(inputs[0][0].dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        detector.predict(collate([sample(64, 96, 7, stuff=False)]))
    assert len(types) > 1 and set(types) == {torch.float32}


def test_a_semantic_branch_without_label_maps_says_what_to_do(model: dict[str, Any]) -> None:
    detector = OpenMMLabDetector(model, num_classes=5)
    with pytest.raises(DataError, match=r"7\.jpg comes without a label map.*data\.train_stuff.*semantic_head"):
        detector.losses(collate([sample(64, 96, 7, stuff=False)]))
    detector.eval()
    with torch.no_grad():
        assert len(detector.predict(collate([sample(64, 96, 7, stuff=False)]))) == 1


def test_without_a_semantic_branch_it_learns_from_instances_alone() -> None:
    torch.manual_seed(0)
    detector = OpenMMLabDetector(load_config(CONFIGS / "demo/htc_swin-nano_shapes.py").model, num_classes=5)
    assert not detector.has_semantic_branch
    terms = detector.losses(collate([sample(64, 96, 1, stuff=False), sample(90, 70, 2, stuff=False)]))
    assert "loss_semantic_seg" not in terms
    sum(value for name, value in terms.items() if "loss" in name).backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []
