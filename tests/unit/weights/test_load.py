"""What is loaded, converted, resized or left out, for a backbone and for any other model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from timm.models import adapt_input_conv
from torch import nn

from helpers.small_swin import WIDTH, backbone, clone, equal, official_classifier, randomised, reasons
from swin_dense.backbones import create_backbone
from swin_dense.errors import WeightsError
from swin_dense.weights import LoadReport, load_weights, save_weights


def taken(report: LoadReport) -> Iterator[str]:
    yield from report.loaded
    yield from (note.name for note in (*report.converted, *report.interpolated))


class TestBackbone:
    def test_own_weights_come_back_from_a_file(self, tmp_path: Path) -> None:
        source, target = backbone(1), backbone(2)
        save_weights(source, tmp_path / "weights.safetensors")
        report = load_weights(target, tmp_path / "weights.safetensors")
        assert equal(target.state_dict(), source.state_dict())
        assert sorted(report.loaded) == sorted(source.state_dict())
        assert not (report.converted or report.interpolated or report.skipped or report.missing)
        assert report.format == "swin-dense"
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
        assert skipped["layers.2.blocks.1.attn_mask"] == "recomputed"
        assert skipped["layers.0.blocks.0.attn.relative_position_index"] == "recomputed"
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
        refused = r'have no place in the model: extras.weight\n  - to leave out what .*: ignore=\["extras"\]$'
        with pytest.raises(WeightsError, match=refused):
            load_weights(backbone(), state, ignore=["extra"])

    def test_allow_missing_keeps_initial_values(self) -> None:
        model, state = backbone(), official_classifier()
        before = clone(model)
        bias = state.pop("patch_embed.norm.bias")
        report = load_weights(model, state, allow_missing=["patch_embed.norm.bias"])
        assert reasons(report.missing)["patch_embed.norm.bias"] == "named in allow_missing"
        assert torch.equal(model.state_dict()["patch_embed.norm.bias"], before["patch_embed.norm.bias"])
        assert not torch.equal(bias, before["patch_embed.norm.bias"])


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


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_weights_of_rgb_fit_a_backbone_for_other_channels_as_timm_makes_them(channels: int) -> None:
    trained, model = create_backbone("swin_nano"), create_backbone("swin_nano", in_channels=channels)
    report = load_weights(model, trained.state_dict())
    (note,) = report.converted
    assert note.name == "patch_embed.proj.weight" and note.reason.startswith("3 channels ")
    expected = adapt_input_conv(channels, trained.patch_embed.proj.weight.detach())
    assert torch.allclose(model.patch_embed.proj.weight, expected, atol=1e-7)
    if channels == 1:
        gray = torch.rand(1, 1, 40, 50)
        with torch.inference_mode():
            for ours, theirs in zip(model.eval()(gray), trained.eval()(gray.expand(-1, 3, -1, -1)), strict=True):
                assert torch.allclose(ours, theirs, atol=1e-5)


def test_weights_of_other_channels_than_rgb_are_refused_for_another_number() -> None:
    of_four = create_backbone("swin_nano", in_channels=4)
    with pytest.raises(WeightsError, match=r"patch_embed.proj.weight is float32 \(32, 4, 4, 4\) in the checkpoint"):
        load_weights(create_backbone("swin_nano"), of_four.state_dict())
