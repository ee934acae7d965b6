"""Converting files: what is written, what is explained, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from helpers.small_swin import Detector, backbone, equal, official_classifier, reasons
from swin_dense.cli import main
from swin_dense.errors import WeightsError
from swin_dense.weights import FORMATS, convert_state_dict, convert_weights, load_weights, save_weights
from swin_dense.weights.sizes import relative_position_index, shifted_window_mask

NORMS = {f"norm{stage}.{leaf}" for stage in range(4) for leaf in ("weight", "bias")}


class TestFiles:
    def test_the_suffix_says_how_the_file_is_written(self, tmp_path: Path) -> None:
        source = backbone(1)
        save_weights(source, tmp_path / "in.safetensors", metadata={"class_names": '["a"]'})
        convert_weights(tmp_path / "in.safetensors", tmp_path / "new/out.safetensors", "openmmlab")
        convert_weights(tmp_path / "in.safetensors", tmp_path / "out.pth", "openmmlab")
        tensors = load_file(tmp_path / "new/out.safetensors")
        assert equal(torch.load(tmp_path / "out.pth", weights_only=True), tensors)
        with safe_open(tmp_path / "new/out.safetensors", framework="pt") as file:
            assert file.metadata() == {"class_names": '["a"]', "format": "pt"}
        target = backbone(2)
        load_weights(target, tmp_path / "out.pth")
        assert equal(target.state_dict(), source.state_dict())

    def test_the_official_code_finds_its_weights_where_it_looks(self, tmp_path: Path) -> None:
        save_weights(backbone(1), tmp_path / "in.safetensors")
        convert_weights(tmp_path / "in.safetensors", tmp_path / "out.pth", "official")
        assert [*torch.load(tmp_path / "out.pth", weights_only=True)] == ["model"]

    def test_a_file_of_torch_save_holds_no_more_than_its_tensors(self, tmp_path: Path) -> None:
        """Queries, keys and values are parts of one tensor, and a part would be written with the whole."""
        save_weights(backbone(1), tmp_path / "in.safetensors")
        convert_weights(tmp_path / "in.safetensors", tmp_path / "out.pth", "huggingface")
        for tensor in torch.load(tmp_path / "out.pth", weights_only=True).values():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes

    def test_another_suffix_and_a_mistyped_format_are_refused_before_anything_is_read(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"out\.ckpt: name the file \.safetensors, or \.pth"):
            convert_weights(tmp_path / "absent", tmp_path / "out.ckpt", "timm")
        with pytest.raises(WeightsError, match='unknown weight format "hugingface"; did you mean "huggingface"'):
            convert_weights(tmp_path / "absent", tmp_path / "out.pth", "hugingface")

    def test_a_failure_names_the_file_and_writes_nothing(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {**official_classifier(), "extra": torch.zeros(1)}}, tmp_path / "in.pth")
        with pytest.raises(WeightsError, match=r"in\.pth\[state_dict\]: the timm format has no .* 1 tensors: extra"):
            convert_weights(tmp_path / "in.pth", tmp_path / "out.pth", "timm")
        assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]

    def test_a_file_may_be_converted_in_place(self, tmp_path: Path) -> None:
        path = tmp_path / "w.safetensors"
        save_weights(backbone(1), path)
        convert_weights(path, path, "openmmlab")
        convert_weights(path, path, "swin-dense")
        assert equal(load_file(path), backbone(1).state_dict())


class TestAccount:
    @pytest.mark.parametrize("to", list(FORMATS))
    def test_every_tensor_on_both_sides_once(self, to: str) -> None:
        state = official_classifier()
        converted, report = convert_state_dict(state, to)
        written = [*report.kept, *(note.name for note in (*report.converted, *report.added))]
        assert sorted(written) == sorted(converted) and report.written == len(converted)
        assert (report.format, report.to) == ("official", to)
        kept = {name for name in report.kept if not name.endswith("index")}
        assert all(any(torch.equal(converted[name], value) for value in state.values()) for name in kept)

    def test_what_a_format_explains_is_listed_with_the_reason(self) -> None:
        _, report = convert_state_dict(official_classifier(), "openmmlab")
        assert reasons(report.skipped)["head.bias"] == "head of a classifier; openmmlab has no place for it"
        assert reasons(report.skipped)["norm.bias"] == "last norm of a classifier; openmmlab has no place for it"
        _, report = convert_state_dict(backbone().state_dict(), "timm")
        assert reasons(report.skipped) == dict.fromkeys(NORMS, "output norm of a stage; timm has no place for it")

    def test_the_report_is_a_short_table(self) -> None:
        _, report = convert_state_dict(official_classifier(), "huggingface")
        lines = str(report).splitlines()
        assert lines[0] == "102 tensors from state dict (official -> huggingface)"
        assert lines[2].startswith(
            "  converted       30  split into 3 tensors: swin.encoder.layers.0.blocks.0.attention."
        )
        assert len(lines) == 4


class TestWholeModels:
    def test_a_wrapper_around_all_names_is_taken_off(self) -> None:
        state = {f"module.{key}": value for key, value in Detector(1).state_dict().items()}
        converted, report = convert_state_dict(state, "swin-dense")
        assert equal(converted, Detector(1).state_dict())
        assert report.format == "swin-dense"

    def test_a_classifiers_format_has_no_place_for_a_detector(self) -> None:
        with pytest.raises(WeightsError, match=r"timm format has no place for 9 tensors: neck\.norm\.w.* ignore"):
            convert_state_dict(Detector().state_dict(), "timm")
        converted, report = convert_state_dict(Detector(1).state_dict(), "timm", ignore=["neck", "roi_head"])
        wanted, _ = convert_state_dict(backbone(1).state_dict(), "timm")
        assert converted.keys() == wanted.keys()
        assert reasons(report.skipped)["neck.norm.bias"] == "named in ignore"

    def test_a_detector_is_none_of_transformers_segmenters(self) -> None:
        with pytest.raises(WeightsError, match=r"huggingface format has no place for 9 tensors: neck\.norm\.weight"):
            convert_state_dict(Detector().state_dict(), "huggingface")

    def test_a_head_beside_the_backbone_is_the_classifiers(self) -> None:
        state = {f"backbone.{key}": value for key, value in backbone(1).state_dict().items() if key not in NORMS}
        state |= {"head.weight": torch.randn(5, 64), "head.bias": torch.randn(5)}
        converted, _ = convert_state_dict(state, "timm")
        assert torch.equal(converted["head.fc.weight"], state["head.weight"])
        assert "patch_embed.proj.weight" in converted

    def test_names_that_stand_both_inside_and_beside_the_backbone_are_not_mixed_up(self) -> None:
        state = {f"backbone.{key}": value for key, value in official_classifier().items()}
        beside = {"norm.weight": torch.randn(3), "head.bias": torch.randn(5)}
        converted, report = convert_state_dict({**state, **beside}, "timm", ignore=["norm"])
        assert torch.equal(converted["head.fc.bias"], state["backbone.head.bias"])
        assert torch.equal(converted["norm.weight"], state["backbone.norm.weight"])
        assert reasons(report.skipped)["head.bias"] == "head of a classifier; timm has no place for it"
        with pytest.raises(WeightsError, match=r"no place for 1 tensors: norm\.weight"):
            convert_state_dict({**state, "norm.weight": torch.randn(3)}, "timm")

    def test_ignore_names_what_is_there(self) -> None:
        with pytest.raises(WeightsError, match='ignore names "necks", but there is no parameter'):
            convert_state_dict(Detector().state_dict(), "timm", ignore=["necks"])


def test_values_that_are_not_finite_are_refused() -> None:
    state = official_classifier()
    state["head.bias"][1] = float("nan")
    with pytest.raises(WeightsError, match="1 tensors hold NaN or infinity: head.bias"):
        convert_state_dict(state, "timm")


class TestBuffers:
    def test_a_file_of_transformers_4_comes_back_with_the_index_that_it_had(self) -> None:
        state = {key: value for key, value in official_classifier().items() if "attn_mask" not in key}
        for key in [key for key in state if key.endswith("index")]:
            state[key] = relative_position_index((2, 2))
        theirs, _ = convert_state_dict(state, "huggingface-4")
        index = theirs["swin.encoder.layers.3.blocks.0.attention.self.relative_position_index"]
        assert torch.equal(index, relative_position_index((2, 2)))
        ours, report = convert_state_dict(theirs, "swin-dense")
        assert report.format == "huggingface-4" and len(ours) == 82
        assert equal(convert_state_dict(ours, "huggingface-4")[0], theirs)

    def test_the_index_of_two_by_two_tokens(self) -> None:
        """By hand: 3 x 3 offsets (down, right) from -1 to 1, row by row; tokens (0,0) (0,1) (1,0) (1,1)."""
        assert relative_position_index((2, 2)).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]

    def test_the_mask_of_two_by_two_windows(self) -> None:
        """By hand, windows of two tokens shifted by one: only the first window holds neighbours alone."""
        mask = shifted_window_mask(4, 2)
        assert mask.shape == (4, 4, 4)
        assert mask[0].abs().max() == 0
        apart = -100.0
        assert mask[1].tolist() == [[0, apart, 0, apart], [apart, 0, apart, 0]] * 2
        assert mask[2].tolist() == [[0, 0, apart, apart]] * 2 + [[apart, apart, 0, 0]] * 2
        assert mask[3].tolist() == [[0 if row == column else apart for column in range(4)] for row in range(4)]

    def test_masks_follow_the_image_size_of_the_position_embedding(self) -> None:
        model = backbone(absolute_position_embedding=True, pretrain_image_size=128)
        state = {key: value for key, value in model.state_dict().items() if key not in NORMS}
        converted, report = convert_state_dict(state, "official")
        assert converted["layers.2.blocks.1.attn_mask"].shape == (16, 4, 4)  # 32 tokens, 8 at the third stage
        assert reasons(report.added)["layers.2.blocks.1.attn_mask"] == "computed from the size of window and image"

    def test_a_table_of_no_square_window_is_refused(self) -> None:
        state = backbone().state_dict()
        state["layers.0.blocks.0.attn.relative_position_bias_table"] = torch.zeros(15, 1)
        with pytest.raises(WeightsError, match=r"bias_table \(15, 1\) is not the bias table of a square window"):
            convert_state_dict(state, "openmmlab")


class TestCommand:
    def test_the_table_goes_to_stderr_and_one_line_to_stdout(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save_weights(backbone(1), tmp_path / "in.safetensors")
        out = tmp_path / "out.pth"
        with pytest.raises(SystemExit) as exit_status:
            main(["convert-weights", str(tmp_path / "in.safetensors"), str(out), "--to", "openmmlab"])
        printed = capsys.readouterr()
        assert exit_status.value.code == 0
        assert printed.out == f"{out}: 91 tensors, swin-dense -> openmmlab\n"
        assert "patch-merging channels reordered" in printed.err

    def test_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        save_weights(Detector(1), tmp_path / "in.safetensors")
        names = ["convert-weights", str(tmp_path / "in.safetensors"), str(tmp_path / "out.pth")]
        options = ["--to", "timm", "--from", "swin-dense", "--ignore", "neck", "--ignore", "roi_head", "--json"]
        with pytest.raises(SystemExit):
            main([*names, *options])
        record = json.loads(capsys.readouterr().out)
        assert (record["format"], record["to"], record["tensors"]) == ("swin-dense", "timm", 78)
        assert ["neck.norm.weight", "named in ignore"] in record["skipped"]

    def test_a_mistyped_format(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        save_weights(backbone(1), tmp_path / "in.safetensors")
        names = ["convert-weights", str(tmp_path / "in.safetensors"), str(tmp_path / "out.pth"), "--to", "timm"]
        with pytest.raises(SystemExit) as exit_status:
            main([*names, "--from", "oficial"])
        assert exit_status.value.code == 2
        assert 'unknown weight format "oficial"; did you mean "official"?' in capsys.readouterr().err
