"""What does not fit is refused: the error names the parameter, and the model stays as it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.small_swin import HEADS, WIDTH, Detector, backbone, clone, equal, official_classifier
from swin_dense.backbones.swin import SwinTransformer
from swin_dense.backbones.variants import create_backbone
from swin_dense.errors import WeightsError
from swin_dense.weights import load_weights, save_weights
from swin_dense.weights.files import read_checkpoint


def zeros_like(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a model on the meta device, with real tensors; they take no memory until written to."""
    return {name: torch.zeros(tensor.shape) for name, tensor in model.state_dict().items()}


def refuse(model: nn.Module, state: Mapping[str, Tensor], message: str, **options: object) -> None:
    before = clone(model)
    with pytest.raises(WeightsError, match=message):
        load_weights(model, state, **options)
    assert equal(model.state_dict(), before)


def test_an_unknown_key() -> None:
    state = {**official_classifier(), "layers.0.blocks.0.attn.logit_scale": torch.zeros(1, 1, 1)}
    refuse(backbone(), state, "1 keys .* have no place in the model: layers.0.blocks.0.attn.logit_scale")


def test_a_position_embedding_that_the_model_does_not_add() -> None:
    state = {**official_classifier(), "absolute_pos_embed": torch.zeros(1, 16, WIDTH)}
    refuse(backbone(), state, "have no place in the model: absolute_pos_embed")


def test_a_missing_parameter() -> None:
    state = official_classifier()
    del state["layers.2.blocks.1.mlp.fc1.bias"]
    refuse(backbone(), state, "1 parameters .* not in the checkpoint: layers.2.blocks.1.mlp.fc1.bias")


def test_a_shape() -> None:
    state = official_classifier()
    state["layers.1.blocks.0.norm1.weight"] = torch.zeros(7)
    message = r"layers.1.blocks.0.norm1.weight is float32 \(7,\) in the checkpoint, float32 \(16,\) in the model"
    refuse(backbone(), state, message)


def test_another_number_of_heads() -> None:
    state = official_classifier()
    state["layers.3.blocks.0.attn.relative_position_bias_table"] = torch.zeros(9, 4)
    refuse(backbone(), state, r"is float32 \(9, 4\) in the checkpoint, float32 \(9, 2\) in the model")


def test_a_table_of_no_square_window() -> None:
    state = official_classifier()
    state["layers.3.blocks.0.attn.relative_position_bias_table"] = torch.zeros(15, 2)
    refuse(backbone(), state, "layers.3.blocks.0.attn.relative_position_bias_table: cannot resize 15 positions")


def test_a_larger_model() -> None:
    torch.manual_seed(0)
    larger = SwinTransformer(12, (1, 1, 3, 1), HEADS, 2).state_dict()
    refuse(backbone(), larger, r"(?s)tensors are unlike.*13 keys .* have no place .*layers.2.blocks.2")


def test_weights_of_another_variant_are_named() -> None:
    with torch.device("meta"):
        tiny, small, large = (create_backbone(f"swin_{size}") for size in ("tiny", "small", "large_384"))
    for model, weights, name in (
        (tiny, small, "swin_small"),
        (small, tiny, "swin_tiny"),
        (tiny, large, "swin_large_384"),
    ):
        with pytest.raises(WeightsError, match=f"they look like {name}, and the model's backbone is another one"):
            load_weights(model, zeros_like(weights))


def test_no_variant_is_named_where_none_fits_or_it_is_not_what_is_wrong() -> None:
    with torch.device("meta"):
        tiny, base, other_window = (create_backbone(f"swin_{size}") for size in ("tiny", "base", "base_384"))
    one_more = zeros_like(other_window) | {"layers.0.blocks.0.attn.logit_scale": torch.zeros(1)}
    for model, weights in ((tiny, backbone().state_dict()), (base, one_more)):
        with pytest.raises(WeightsError, match="do not fit the model") as error:
            load_weights(model, weights)
        assert "look like" not in str(error.value)


def test_values_that_are_not_finite() -> None:
    state = official_classifier()
    state["layers.0.blocks.0.mlp.fc1.bias"][3] = float("nan")
    state["patch_embed.norm.bias"][0] = float("-inf")
    refuse(backbone(), state, "2 tensors hold NaN or infinity: patch_embed.norm.bias; layers.0.blocks.0.mlp.fc1.bias")


def test_integers_for_a_parameter() -> None:
    state = official_classifier()
    state["patch_embed.norm.bias"] = torch.zeros(WIDTH, dtype=torch.int64)
    refuse(backbone(), state, r"patch_embed.norm.bias is int64 \(8,\)")


def test_names_in_the_call_that_nothing_has() -> None:
    refuse(backbone(), official_classifier(), 'ignore names "haed"', ignore=["haed"])
    refuse(backbone(), official_classifier(), 'allow_missing names "norm7"', allow_missing=["norm7"])
    refuse(backbone(), official_classifier(), r'ignore takes several names; write \("head",\)', ignore="head")


def test_a_wrong_format_in_the_call() -> None:
    refuse(backbone(), official_classifier(), "no Swin weights in the torchvision format", format="torchvision")
    refuse(backbone(), official_classifier(), "(?s)format: timm.*layers.0.downsample", format="timm")


def test_weights_of_another_kind_of_backbone() -> None:
    resnet = {f"{name}.weight": torch.zeros(1) for name in ("conv1", "bn1", "layer1.0.conv1", "fc")}
    message = "(?s)no Swin weights .*the keys are: conv1.weight, bn1.weight, .*the model's backbone is a Swin"
    refuse(backbone(), resnet, message)
    refuse(Detector(), resnet, message)


def test_a_file_is_named_in_the_error(tmp_path: Path) -> None:
    save_weights({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.safetensors")
    with pytest.raises(WeightsError, match=r"resnet\.safetensors: no Swin weights"):
        load_weights(backbone(), tmp_path / "resnet.safetensors")


def test_tables_that_one_side_has_no_place_for() -> None:
    whole, without = backbone(), backbone(relative_position_bias=False)
    tables = [name for name in whole.state_dict() if name.endswith("relative_position_bias_table")]
    refuse(whole, without.state_dict(), f"{len(tables)} parameters .* not in the checkpoint: {tables[0]}")
    refuse(without, whole.state_dict(), f"{len(tables)} keys .* have no place in the model: {tables[0]}")
    report = load_weights(without, whole.state_dict(), ignore=tables)
    assert [note.name for note in report.skipped] == tables and not report.missing


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_advised_for_a_whole_model_makes_a_file_that_is_read(tmp_path: Path, wrapped: bool) -> None:
    whole = torch.nn.Linear(2, 3)
    torch.save({"model": whole} if wrapped else whole, tmp_path / "IN")
    with pytest.raises(WeightsError) as error:
        read_checkpoint(tmp_path / "IN")
    advised = str(error.value).split('python -c "')[1].removesuffix('"')
    subprocess.run([sys.executable, "-c", advised], cwd=tmp_path, check=True)
    assert read_checkpoint(tmp_path / "OUT").keys() == {"weight", "bias"}
