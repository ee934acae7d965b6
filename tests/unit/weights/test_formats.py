"""The tables as pure dict -> dict functions: names, channel orders, and round trips that lose no bit."""

from __future__ import annotations

import pytest
import torch

from swin_dense.backbones.swin import SwinTransformer
from swin_dense.errors import WeightsError
from swin_dense.weights.formats import FORMATS
from swin_dense.weights.layout import detect_layout, root_of
from swin_dense.weights.tables import Name


@pytest.fixture(scope="module")
def official() -> dict[str, torch.Tensor]:
    """A backbone's state dict, in which every value occurs once, so that nothing can be swapped unseen."""
    state = SwinTransformer(8, (1, 1, 2, 1), (1, 1, 2, 2), window_size=2, absolute_position_embedding=True).state_dict()
    start, numbered = 0, {}
    for key, value in state.items():
        numbered[key] = torch.arange(start, start + value.numel(), dtype=torch.float64).view(value.shape)
        start += value.numel()
    return numbered


def without(state: dict[str, torch.Tensor], *beginnings: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(beginnings)}


class TestName:
    def test_a_stage_written_as_a_line_is_solved_for_the_stage(self) -> None:
        name = Name("features.{2i+1}.{j}.norm1")
        assert name.match("features.5.3.norm1.weight") == ({"i": 2, "j": 3}, ".weight")
        assert name.fill({"i": 2, "j": 3}, ".weight") == "features.5.3.norm1.weight"

    @pytest.mark.parametrize(
        "key",
        [
            "features.4.3.norm1.weight",
            "features.05.3.norm1.weight",
            "features.5.3.norm1.weight.x",
            "xfeatures.5.3.norm1",
        ],
    )
    def test_other_keys_do_not_match(self, key: str) -> None:
        assert Name("features.{2i+1}.{j}.norm1").match(key) is None

    def test_a_stage_below_zero_does_not_match(self) -> None:
        assert Name("layers.{i+1}.downsample.norm").match("layers.0.downsample.norm.weight") is None


EXAMPLES = [
    ("torchvision", "features.0.2.bias", "patch_embed.norm.bias"),
    ("torchvision", "features.5.1.mlp.3.weight", "layers.2.blocks.1.mlp.fc2.weight"),
    ("torchvision", "features.2.reduction.weight", "layers.0.downsample.reduction.weight"),
    ("timm", "layers.1.downsample.norm.weight", "layers.0.downsample.norm.weight"),
    ("timm", "layers_2.blocks.1.attn.qkv.bias", "layers.2.blocks.1.attn.qkv.bias"),
    ("timm", "head.fc.bias", "head.bias"),
    ("openmmlab", "stages.2.blocks.1.ffn.layers.0.0.weight", "layers.2.blocks.1.mlp.fc1.weight"),
    ("openmmlab", "stages.2.blocks.1.ffn.layers.1.bias", "layers.2.blocks.1.mlp.fc2.bias"),
    ("openmmlab", "stages.0.blocks.0.attn.w_msa.proj.bias", "layers.0.blocks.0.attn.proj.bias"),
    ("huggingface", "swin.encoder.layers.1.blocks.0.output.dense.weight", "layers.1.blocks.0.mlp.fc2.weight"),
    ("huggingface", "encoder.layers.1.blocks.0.attention.output.dense.weight", "layers.1.blocks.0.attn.proj.weight"),
    ("huggingface", "encoder.layers.1.blocks.0.attention.k_proj.bias", "layers.1.blocks.0.attn.qkv.bias"),
    ("huggingface", "hidden_states_norms.stage4.weight", "norm3.weight"),
    ("official", "layers.0.blocks.1.attn_mask", "layers.0.blocks.1.attn_mask"),
]


@pytest.mark.parametrize(("format_name", "theirs", "official_name"), EXAMPLES)
def test_names(format_name: str, theirs: str, official_name: str) -> None:
    reading = FORMATS[format_name].read(theirs)
    assert reading is not None
    assert reading.official == official_name


def test_merging_channels_leave_the_order_of_unfold() -> None:
    image = torch.randn(1, 3, 2, 2)
    unfolded = torch.nn.functional.unfold(image, 2, stride=2)[0, :, 0]
    joined = torch.cat([image[0, :, row, column] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))])
    converted, unmatched = FORMATS["openmmlab"].to_official({"stages.0.downsample.norm.weight": unfolded})
    assert not unmatched
    assert torch.equal(converted["layers.0.downsample.norm.weight"].tensor, joined)


def test_separate_projections_are_joined_as_query_key_value() -> None:
    block = "encoder.layers.0.blocks.0.attention.self"
    parts = {
        f"{block}.{name}.weight": torch.full((2, 2), float(value))
        for value, name in enumerate(("value", "key", "query"))
    }
    converted, _ = FORMATS["huggingface"].to_official(parts)
    assert converted["layers.0.blocks.0.attn.qkv.weight"].tensor[:, 0].tolist() == [2, 2, 1, 1, 0, 0]


def test_a_missing_projection_is_named() -> None:
    key = "encoder.layers.3.blocks.1.attention.q_proj.bias"
    with pytest.raises(
        WeightsError, match=r"missing: encoder\.layers\.3\.blocks\.1\.attention\.k_proj\.bias, .*v_proj"
    ):
        FORMATS["huggingface"].to_official({key: torch.zeros(2)})


def test_two_keys_for_one_parameter_are_refused() -> None:
    with pytest.raises(WeightsError, match="both stand for layers.1.blocks.0.norm1.bias"):
        FORMATS["timm"].to_official({f"layers{dot}1.blocks.0.norm1.bias": torch.zeros(2) for dot in "._"})


def test_a_merging_that_is_not_of_four_positions_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"cannot be made of stages\.0\.downsample\.norm\.weight \(6,\)"):
        FORMATS["openmmlab"].to_official({"stages.0.downsample.norm.weight": torch.zeros(6)})


BUFFER = {
    "official": ["layers.0.blocks.0.attn.relative_position_index"],
    "huggingface-4": ["encoder.layers.0.blocks.0.attention.self.relative_position_index"],
}
LACKING = {"timm": ("norm", "absolute"), "torchvision": ("norm", "absolute")}


@pytest.mark.parametrize("format_name", list(FORMATS))
def test_round_trip_keeps_every_bit(format_name: str, official: dict[str, torch.Tensor]) -> None:
    state = without(official, *LACKING[format_name]) if format_name in LACKING else official
    table = FORMATS[format_name]
    back, unmatched = table.to_official(table.from_official(state))
    assert not unmatched
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key].tensor, value) for key, value in state.items())


def test_a_format_without_output_norms_says_so(official: dict[str, torch.Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"timm format has no name for .*norm0\.weight"):
        FORMATS["timm"].from_official(official)


def test_tokens_become_a_map_row_by_row_and_back() -> None:
    tokens = torch.arange(8.0).view(1, 4, 2)
    converted, _ = FORMATS["huggingface"].to_official({"embeddings.position_embeddings": tokens})
    position_map = converted["absolute_pos_embed"].tensor
    assert position_map.tolist() == [[[[0, 2], [4, 6]], [[1, 3], [5, 7]]]]
    assert converted["absolute_pos_embed"].change == "tokens laid out as a map"
    back = FORMATS["huggingface"].from_official({"absolute_pos_embed": position_map})
    assert torch.equal(back["embeddings.position_embeddings"], tokens)


def test_tokens_that_form_no_square_are_refused() -> None:
    with pytest.raises(WeightsError, match="of 6 tokens does not form a square map"):
        FORMATS["openmmlab"].to_official({"absolute_pos_embed": torch.zeros(1, 6, 2)})
    with pytest.raises(WeightsError, match=r"of \(2, 3\) is not a square map"):
        FORMATS["openmmlab"].from_official({"absolute_pos_embed": torch.zeros(1, 4, 2, 3)})


def test_a_fused_projection_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"attn\.qkv\.bias \(7,\) cannot be split into 3 equal tensors"):
        FORMATS["huggingface"].from_official({"layers.0.blocks.0.attn.qkv.bias": torch.zeros(7)})


class TestDetection:
    @pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone.", "model.network.backbone."])
    @pytest.mark.parametrize("format_name", ["swin-dense", "openmmlab", "huggingface"])
    def test_prefixes_are_found(self, format_name: str, prefix: str, official: dict[str, torch.Tensor]) -> None:
        theirs = FORMATS[format_name].from_official(official)
        assert detect_layout([prefix + key for key in theirs]) == (FORMATS[format_name], prefix)

    @pytest.mark.parametrize("format_name", list(FORMATS))
    def test_every_format_is_told_from_the_others(self, format_name: str, official: dict[str, torch.Tensor]) -> None:
        state = without(official, *LACKING[format_name]) if format_name in LACKING else official
        keys = [*FORMATS[format_name].from_official(state)]
        keys += BUFFER.get(format_name, [])
        assert detect_layout(keys) == (FORMATS[format_name], "")

    @pytest.mark.parametrize(
        ("prefix", "root"), [("", ""), ("backbone.", ""), ("module.backbone.", "module."), ("a.b.backbone.", "a.b.")]
    )
    def test_neighbours_of_the_backbone_stand_one_level_up(self, prefix: str, root: str) -> None:
        assert root_of(prefix) == root

    def test_one_stage_alone_is_ambiguous(self, official: dict[str, torch.Tensor]) -> None:
        keys = [key for key in official if key.startswith(("patch_embed", "layers.0.blocks"))]
        with pytest.raises(WeightsError, match="several formats: swin-dense under '', timm under ''"):
            detect_layout(keys)
        assert detect_layout(keys, "timm").format.name == "timm"

    def test_two_models_in_one_file_are_ambiguous(self, official: dict[str, torch.Tensor]) -> None:
        with pytest.raises(WeightsError, match="swin-dense under 'teacher.', swin-dense under 'student.'"):
            detect_layout([f"{role}.{key}" for role in ("teacher", "student") for key in official])

    def test_an_unknown_format_names_the_nearest_and_the_keys_that_it_lacks(
        self, official: dict[str, torch.Tensor]
    ) -> None:
        keys = [key.replace("patch_embed.proj", "stem.conv") for key in FORMATS["openmmlab"].from_official(official)]
        with pytest.raises(WeightsError, match="nearest is openmmlab, which has .* but not: .*stem.conv"):
            detect_layout(keys)

    def test_a_missing_merging_is_not_taken_for_another_format(self, official: dict[str, torch.Tensor]) -> None:
        with pytest.raises(WeightsError, match="patch merging between stages is missing"):
            detect_layout(without(official, "layers.1.downsample", "absolute"))

    def test_another_architecture_is_no_swin(self) -> None:
        with pytest.raises(WeightsError, match="no Swin weights in any known format; the keys are: conv1.weight"):
            detect_layout(["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "norm.weight", "head.weight"])

    def test_an_empty_state_dict_is_no_swin(self) -> None:
        with pytest.raises(WeightsError, match="the keys are: none"):
            detect_layout([])

    @pytest.mark.parametrize(
        ("name", "hint"),
        [("mmdet", "valid: huggingface, huggingface-4, official, openmmlab, swin-dense"), ("tim", 'mean "timm"')],
    )
    def test_an_unknown_format_name_is_answered_with_the_known(self, name: str, hint: str) -> None:
        with pytest.raises(WeightsError, match=f'unknown weight format "{name}"; .*{hint}'):
            detect_layout([], name)
