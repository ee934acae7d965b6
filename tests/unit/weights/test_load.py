"""What is loaded, converted, resized, left out or refused, for a backbone and for a detector around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from swin_dense.backbones.swin import SwinTransformer
from swin_dense.errors import WeightsError
from swin_dense.weights import LoadReport, load_weights, save_weights
from swin_dense.weights.formats import FORMATS
from swin_dense.weights.report import Note

WIDTH, DEPTHS, HEADS = 8, (1, 1, 2, 1), (1, 1, 2, 2)


def backbone(seed: int = 0, window_size: int = 2, **options: object) -> SwinTransformer:
    torch.manual_seed(seed)
    return randomised(SwinTransformer(WIDTH, DEPTHS, HEADS, window_size, **options))


def randomised(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


class Detector(nn.Module):
    """A backbone, a neck and a head, named as in a detector."""

    def __init__(self, seed: int = 0, classes: int = 3, **options: object) -> None:
        super().__init__()
        self.backbone = backbone(seed, **options)
        self.neck = nn.ModuleDict({"norm": nn.BatchNorm2d(4)})
        self.roi_head = nn.ModuleDict({"fc_cls": nn.Linear(4, classes + 1), "fc_reg": nn.Linear(4, classes * 4)})
        randomised(self)


def official_classifier(window_size: int = 2, classes: int = 5) -> dict[str, Tensor]:
    """A classification checkpoint by its published names and shapes."""
    torch.manual_seed(99)
    area, state = window_size**2, {}

    def add(name: str, *shape: int) -> None:
        state[name] = torch.randn(shape)

    add("patch_embed.proj.weight", WIDTH, 3, 4, 4)
    for name in ("patch_embed.proj.bias", "patch_embed.norm.weight", "patch_embed.norm.bias"):
        add(name, WIDTH)
    for i, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        channels = WIDTH * 2**i
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}"
            if j % 2 == 1:
                add(f"{block}.attn_mask", 4, area, area)
            add(f"{block}.attn.relative_position_bias_table", (2 * window_size - 1) ** 2, heads)
            state[f"{block}.attn.relative_position_index"] = torch.zeros(area, area, dtype=torch.int64)
            for name, outputs, inputs in (
                ("attn.qkv", 3, 1),
                ("attn.proj", 1, 1),
                ("mlp.fc1", 4, 1),
                ("mlp.fc2", 1, 4),
            ):
                add(f"{block}.{name}.weight", outputs * channels, inputs * channels)
                add(f"{block}.{name}.bias", outputs * channels)
            for name in ("norm1", "norm2"):
                add(f"{block}.{name}.weight", channels)
                add(f"{block}.{name}.bias", channels)
        if i < 3:
            add(f"layers.{i}.downsample.reduction.weight", 2 * channels, 4 * channels)
            add(f"layers.{i}.downsample.norm.weight", 4 * channels)
            add(f"layers.{i}.downsample.norm.bias", 4 * channels)
    add("norm.weight", WIDTH * 8)
    add("norm.bias", WIDTH * 8)
    add("head.weight", classes, WIDTH * 8)
    add("head.bias", classes)
    return state


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in right)


def clone(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def taken(report: LoadReport) -> Iterator[str]:
    yield from report.loaded
    yield from (note.name for note in (*report.converted, *report.interpolated))


def reasons(notes: tuple[Note, ...]) -> dict[str, str]:
    return {note.name: note.reason for note in notes}


class TestBackbone:
    def test_own_weights_come_back_from_a_file(self, tmp_path: Path) -> None:
        source, target = backbone(1), backbone(2)
        save_weights(source, tmp_path / "weights.safetensors")
        report = load_weights(target, tmp_path / "weights.safetensors")
        assert equal(target.state_dict(), source.state_dict())
        assert sorted(report.loaded) == sorted(source.state_dict())
        assert not (report.converted or report.interpolated or report.skipped or report.missing)
        assert report.format == "official"
        assert report.source == str(tmp_path / "weights.safetensors")

    def test_an_official_classifier_fills_all_but_the_output_norms(self) -> None:
        model, state = backbone(), official_classifier()
        before = clone(model)
        report = load_weights(model, {"model": state})
        after = model.state_dict()
        norms = {f"norm{stage}.{leaf}" for stage in range(4) for leaf in ("weight", "bias")}
        assert reasons(report.missing) == dict.fromkeys(norms, "output norm that the checkpoint lacks")
        assert all(torch.equal(after[key], before[key] if key in norms else state[key]) for key in after)
        skipped = reasons(report.skipped)
        assert skipped["head.weight"] == skipped["head.bias"] == "head of a classifier"
        assert skipped["norm.weight"] == skipped["norm.bias"] == "last norm of a classifier"
        assert skipped["layers.2.blocks.1.attn_mask"] == "computed anew"
        assert skipped["layers.0.blocks.0.attn.relative_position_index"] == "computed anew"
        assert report.source == "state dict[model]"

    @pytest.mark.parametrize("window_size", [2, 3])
    def test_every_key_on_both_sides_is_accounted_for_once(self, window_size: int) -> None:
        model, checkpoint = backbone(), official_classifier(window_size)
        report = load_weights(model, checkpoint)
        missing = [note.name for note in report.missing]
        assert sorted([*taken(report), *missing]) == sorted(model.state_dict())
        assert sorted([*taken(report), *(note.name for note in report.skipped)]) == sorted(checkpoint)

    def test_fewer_outputs_leave_the_norms_of_the_others(self) -> None:
        dense = backbone(1)
        few = backbone(2, out_indices=(1, 3))
        report = load_weights(few, dense.state_dict())
        assert {note.name for note in report.skipped} == {"norm0.weight", "norm0.bias", "norm2.weight", "norm2.bias"}
        report = load_weights(dense, few.state_dict())
        assert {note.name for note in report.missing} == {"norm0.weight", "norm0.bias", "norm2.weight", "norm2.bias"}

    def test_half_an_output_norm_is_an_error(self) -> None:
        state = clone(backbone())
        del state["norm2.bias"]
        with pytest.raises(WeightsError, match="1 parameters of the model are not in the checkpoint: norm2.bias"):
            load_weights(backbone(), state)

    def test_another_window_is_interpolated_and_only_its_tables(self) -> None:
        model = backbone(window_size=3)
        report = load_weights(model, official_classifier(window_size=2))
        assert {note.name for note in report.interpolated} == {k for k in model.state_dict() if "bias_table" in k}
        assert {note.reason for note in report.interpolated} == {"resized (bicubic) from 9 to 25 positions"}
        centre = model.get_parameter("layers.2.blocks.1.attn.relative_position_bias_table")[12]
        expected = official_classifier()["layers.2.blocks.1.attn.relative_position_bias_table"][4]
        torch.testing.assert_close(centre, expected)

    @pytest.mark.parametrize(("image", "kind"), [(16, "converted"), (24, "interpolated")])
    def test_a_classifiers_position_tokens_become_a_map(self, image: int, kind: str) -> None:
        model = backbone(absolute_position_embedding=True, pretrain_image_size=image)
        tokens = torch.arange(16.0).view(1, 16, 1).expand(1, 16, WIDTH).contiguous()
        report = load_weights(model, {**official_classifier(), "absolute_pos_embed": tokens})
        assert [note.name for note in getattr(report, kind)] == ["absolute_pos_embed"]
        corner = model.get_parameter("absolute_pos_embed")[0, 0, 0]
        assert corner[-1] > corner[0] + 2.5
        if kind == "converted":
            assert corner.tolist() == [0, 1, 2, 3]

    def test_half_precision_is_cast_and_reported(self) -> None:
        model = backbone(0)
        state = {key: value.bfloat16() for key, value in backbone(1).state_dict().items()}
        report = load_weights(model, state)
        assert not report.loaded
        assert {note.reason for note in report.converted} == {"cast from bfloat16 to float32"}
        assert equal(model.state_dict(), {key: value.float() for key, value in state.items()})

    def test_the_report_is_a_short_table(self) -> None:
        text = str(load_weights(backbone(), official_classifier()))
        assert text.splitlines()[0] == "78 of 86 tensors of the model from state dict (format: official)"
        assert "  skipped          2  head of a classifier: head.weight, head.bias" in text.splitlines()
        assert len(text.splitlines()) == 6


class TestRefusals:
    """Each names the parameter and leaves the model as it was."""

    def refuse(self, model: nn.Module, state: Mapping[str, Tensor], message: str, **options: object) -> None:
        before = clone(model)
        with pytest.raises(WeightsError, match=message):
            load_weights(model, state, **options)
        assert equal(model.state_dict(), before)

    def test_an_unknown_key(self) -> None:
        state = {**official_classifier(), "layers.0.blocks.0.attn.logit_scale": torch.zeros(1, 1, 1)}
        self.refuse(backbone(), state, "1 keys .* have no place in the model: layers.0.blocks.0.attn.logit_scale")

    def test_a_position_embedding_that_the_model_does_not_add(self) -> None:
        state = {**official_classifier(), "absolute_pos_embed": torch.zeros(1, 16, WIDTH)}
        self.refuse(backbone(), state, "have no place in the model: absolute_pos_embed")

    def test_a_missing_parameter(self) -> None:
        state = official_classifier()
        del state["layers.2.blocks.1.mlp.fc1.bias"]
        self.refuse(backbone(), state, "1 parameters .* not in the checkpoint: layers.2.blocks.1.mlp.fc1.bias")

    def test_a_shape(self) -> None:
        state = official_classifier()
        state["layers.1.blocks.0.norm1.weight"] = torch.zeros(7)
        message = r"layers.1.blocks.0.norm1.weight is float32 \(7,\) in the checkpoint, float32 \(16,\) in the model"
        self.refuse(backbone(), state, message)

    def test_another_number_of_heads(self) -> None:
        state = official_classifier()
        state["layers.3.blocks.0.attn.relative_position_bias_table"] = torch.zeros(9, 4)
        self.refuse(backbone(), state, r"is float32 \(9, 4\) in the checkpoint, float32 \(9, 2\) in the model")

    def test_a_table_of_no_square_window(self) -> None:
        state = official_classifier()
        state["layers.3.blocks.0.attn.relative_position_bias_table"] = torch.zeros(15, 2)
        self.refuse(
            backbone(), state, "layers.3.blocks.0.attn.relative_position_bias_table: cannot resize 15 positions"
        )

    def test_a_larger_model(self) -> None:
        torch.manual_seed(0)
        larger = SwinTransformer(12, (1, 1, 3, 1), HEADS, 2).state_dict()
        self.refuse(backbone(), larger, r"(?s)tensors are unlike.*13 keys .* have no place .*layers.2.blocks.2")

    def test_values_that_are_not_finite(self) -> None:
        state = official_classifier()
        state["layers.0.blocks.0.mlp.fc1.bias"][3] = float("nan")
        state["patch_embed.norm.bias"][0] = float("-inf")
        self.refuse(
            backbone(), state, "2 tensors hold NaN or infinity: patch_embed.norm.bias; layers.0.blocks.0.mlp.fc1.bias"
        )

    def test_integers_for_a_parameter(self) -> None:
        state = official_classifier()
        state["patch_embed.norm.bias"] = torch.zeros(WIDTH, dtype=torch.int64)
        self.refuse(backbone(), state, r"patch_embed.norm.bias is int64 \(8,\)")

    def test_names_in_the_call_that_nothing_has(self) -> None:
        self.refuse(backbone(), official_classifier(), 'ignore names "haed"', ignore=["haed"])
        self.refuse(backbone(), official_classifier(), 'allow_missing names "norm7"', allow_missing=["norm7"])
        self.refuse(backbone(), official_classifier(), r'ignore takes several names; write \("head",\)', ignore="head")

    def test_a_wrong_format_in_the_call(self) -> None:
        self.refuse(
            backbone(), official_classifier(), "no Swin weights in the torchvision format", format="torchvision"
        )
        self.refuse(backbone(), official_classifier(), "(?s)format: timm.*layers.0.downsample", format="timm")

    def test_a_file_is_named_in_the_error(self, tmp_path: Path) -> None:
        save_weights({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.safetensors")
        with pytest.raises(WeightsError, match=r"resnet\.safetensors: no Swin weights"):
            load_weights(backbone(), tmp_path / "resnet.safetensors")


class TestWaysOut:
    def test_ignore_leaves_a_key_out_on_both_sides(self) -> None:
        model, state = backbone(), {**official_classifier(), "extra.weight": torch.zeros(1)}
        before = clone(model)
        report = load_weights(model, state, ignore=["extra", "layers.3"])
        assert reasons(report.skipped)["extra.weight"] == "named in ignore"
        assert reasons(report.missing)["layers.3.blocks.0.norm1.bias"] == "named in ignore"
        assert torch.equal(model.state_dict()["layers.3.blocks.0.norm1.bias"], before["layers.3.blocks.0.norm1.bias"])

    def test_ignore_covers_whole_words_of_a_name(self) -> None:
        state = {**official_classifier(), "extras.weight": torch.zeros(1), "extra.weight": torch.zeros(1)}
        with pytest.raises(WeightsError, match="have no place in the model: extras.weight$"):
            load_weights(backbone(), state, ignore=["extra"])

    def test_allow_missing_keeps_initial_values(self) -> None:
        model, state = backbone(), official_classifier()
        before = clone(model)
        bias = state.pop("patch_embed.norm.bias")
        report = load_weights(model, state, allow_missing=["patch_embed.norm.bias"])
        assert reasons(report.missing)["patch_embed.norm.bias"] == "named in allow_missing"
        assert torch.equal(model.state_dict()["patch_embed.norm.bias"], before["patch_embed.norm.bias"])
        assert not torch.equal(bias, before["patch_embed.norm.bias"])


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
        hint = str(raised.value).partition("if it was trained on other classes, start these layers anew: ignore=")[2]
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


class TestAnyOtherModel:
    def test_takes_its_own_names_and_nothing_else(self) -> None:
        source, target = randomised(nn.Linear(3, 2)), nn.Linear(3, 2)
        report = load_weights(target, source.state_dict())
        assert equal(target.state_dict(), source.state_dict())
        assert report.format == "same names"
        with pytest.raises(
            WeightsError, match=r"(?s)no place in the model: head.weight.*not in the checkpoint: weight"
        ):
            load_weights(target, {"head.weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
        with pytest.raises(WeightsError, match="format 'timm' is for a Swin backbone, and the model has none"):
            load_weights(target, source.state_dict(), format="timm")
