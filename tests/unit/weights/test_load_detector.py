"""A detector is a backbone and what surrounds it: what of either is loaded, kept or refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from helpers.small_swin import WIDTH, Detector, OtherDetector, backbone, clone, equal, official_classifier, reasons
from swin_dense.errors import WeightsError
from swin_dense.weights import load_weights
from swin_dense.weights.formats import FORMATS


def in_openmmlab_names(detector: Detector) -> dict[str, Tensor]:
    state = detector.state_dict()
    inner = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    around = {key: value for key, value in state.items() if not key.startswith("backbone.")}
    return {f"backbone.{key}": value for key, value in FORMATS["openmmlab"].from_official(inner).items()} | around


class TestDetector:
    @pytest.mark.parametrize("prefix", ["", "module.", "model.network."])
    def test_a_whole_detector_is_converted_inside_and_taken_by_name_around(self, prefix: str) -> None:
        source, target = Detector(1), Detector(2)
        state = {prefix + key: value for key, value in in_openmmlab_names(source).items()}
        report = load_weights(target, {"meta": {"epoch": 12}, "state_dict": state})
        assert equal(target.state_dict(), source.state_dict())
        assert report.format == "openmmlab"
        assert {note.name for note in report.converted} == {
            f"backbone.layers.{i}.downsample.{leaf}"
            for i in range(3)
            for leaf in ("norm.weight", "norm.bias", "reduction.weight")
        }
        assert {"neck.norm.running_mean", "neck.norm.num_batches_tracked", "roi_head.fc_cls.bias"} < set(report.loaded)
        assert not report.skipped and not report.missing

    def test_the_model_may_be_wrapped_too(self) -> None:
        source, target = Detector(1), nn.ModuleDict({"network": Detector(2)})
        load_weights(target, source.state_dict())
        assert equal(target["network"].state_dict(), source.state_dict())

    @pytest.mark.parametrize("prefix", ["", "backbone."])
    def test_a_classifier_fills_the_backbone_and_the_rest_keeps_its_values(self, prefix: str) -> None:
        target = Detector()
        before = clone(target)
        state = {prefix + key: value for key, value in official_classifier().items()}
        report = load_weights(target, state)
        around = {key for key in before if not key.startswith("backbone.")}
        kept = {note.name for note in report.missing if "checkpoint is a backbone alone" in note.reason}
        assert kept == around
        assert all(torch.equal(target.state_dict()[key], before[key]) for key in around)
        assert torch.equal(target.backbone.get_parameter("norm0.bias"), before["backbone.norm0.bias"])
        assert torch.equal(
            target.backbone.get_parameter("patch_embed.proj.bias"), official_classifier()["patch_embed.proj.bias"]
        )

    def test_a_head_beside_the_backbone_is_still_a_classifiers(self) -> None:
        target = nn.ModuleDict({"network": Detector()})
        state = {f"backbone.{key}": value for key, value in backbone(1).state_dict().items()}
        report = load_weights(target, {**state, "head.fc.weight": torch.zeros(5, WIDTH * 8)})
        assert reasons(report.skipped) == {"head.fc.weight": "head of a classifier"}
        assert equal(target["network"].backbone.state_dict(), backbone(1).state_dict())

    def test_a_detectors_weights_fill_a_backbone_alone(self) -> None:
        source, target = Detector(1), backbone(2)
        report = load_weights(target, source.state_dict())
        assert equal(target.state_dict(), source.backbone.state_dict())
        reason = "around the backbone, and the model is a backbone alone"
        assert reasons(report.skipped) == {k: reason for k in source.state_dict() if not k.startswith("backbone.")}

    def test_another_class_count_is_explained_and_the_hint_works(self) -> None:
        source, target = Detector(1, classes=80), Detector(2, classes=3)
        before = clone(target)
        with pytest.raises(WeightsError) as raised:
            load_weights(target, source.state_dict())
        assert "roi_head.fc_cls.weight is float32 (81, 4) in the checkpoint, float32 (4, 4) in the model" in str(
            raised.value
        )
        assert equal(target.state_dict(), before)
        hint = str(raised.value).partition("if it was trained on other classes, re-initialise these layers: ignore=")[2]
        assert hint == '["roi_head.fc_cls", "roi_head.fc_reg"]'
        load_weights(target, source.state_dict(), ignore=["roi_head.fc_cls", "roi_head.fc_reg"])
        changed = {key for key, value in target.state_dict().items() if not torch.equal(value, before[key])}
        assert "neck.norm.weight" in changed and not any(key.startswith("roi_head") for key in changed)

    def test_other_surroundings_are_an_error_on_both_sides(self) -> None:
        state = Detector(1).state_dict()
        state["decode_head.conv_seg.weight"] = state.pop("roi_head.fc_cls.weight")
        with pytest.raises(WeightsError, match=r"(?s)place in the model: decode_head.conv.*: roi_head.fc_cls.weight"):
            load_weights(Detector(2), state)

    def test_surroundings_cannot_slip_into_the_backbone(self) -> None:
        state = {f"encoder.{key}": value for key, value in backbone(1).state_dict().items()}
        state["backbone.norm0.bias"] = torch.zeros(WIDTH)
        with pytest.raises(WeightsError, match="have no place in the model: backbone.norm0.bias"):
            load_weights(Detector(2), state)

    def test_several_backbones_are_refused(self) -> None:
        pair = nn.ModuleDict({"teacher": backbone(), "student": backbone()})
        with pytest.raises(WeightsError, match=r"several Swin backbones \(teacher, student\)"):
            load_weights(pair, backbone().state_dict())


class TestDetectorOnAnotherBackbone:
    @pytest.mark.parametrize(("prefix", "head"), [("", "fc"), ("backbone.", "head.fc")])
    def test_a_classifier_fills_the_backbone_and_the_rest_keeps_its_values(self, prefix: str, head: str) -> None:
        source, target = OtherDetector(1), OtherDetector(2)
        before = clone(target)
        state = {f"{prefix}{key}": value for key, value in source.backbone.state_dict().items()}
        report = load_weights(target, state | {f"{head}.weight": torch.zeros(5, 4), f"{head}.bias": torch.zeros(5)})
        assert equal(target.backbone.state_dict(), source.backbone.state_dict())
        assert torch.equal(target.roi_head.fc_cls.weight, before["roi_head.fc_cls.weight"])
        kept = "around the backbone, and the checkpoint is a backbone alone"
        assert reasons(report.missing) == {f"roi_head.fc_cls.{leaf}": kept for leaf in ("weight", "bias")}
        assert reasons(report.skipped) == {f"{head}.{leaf}": "head of a classifier" for leaf in ("weight", "bias")}

    def test_a_whole_detector_is_taken_by_name(self) -> None:
        source, target = OtherDetector(1), OtherDetector(2)
        report = load_weights(target, source.state_dict())
        assert equal(target.state_dict(), source.state_dict())
        assert not report.missing and not report.skipped

    def test_anything_else_is_an_error_on_both_sides(self) -> None:
        state = OtherDetector(1).state_dict()
        state["bbox_head.weight"] = state.pop("roi_head.fc_cls.weight")
        with pytest.raises(WeightsError, match=r"(?s)place in the model: bbox_head.weight.*: roi_head.fc_cls.weight"):
            load_weights(OtherDetector(2), state)
        alone = OtherDetector(1).backbone.state_dict()
        alone["layer1.weight"] = alone.pop("conv1.weight")
        with pytest.raises(WeightsError, match=r"(?s)place in the model: layer1.weight.*: backbone.conv1.weight"):
            load_weights(OtherDetector(2), alone)
