"""Models to export from, made of the names of variants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import swin_dense
from swin_dense.backbones import VARIANTS, create_backbone
from swin_dense.errors import ConfigError
from swin_dense.models.parts import features_of
from swin_dense.weights import save_weights


def test_a_variant_gets_its_weights_and_images_normalised_as_imagenets(tmp_path: Path) -> None:
    torch.manual_seed(3)
    backbone = create_backbone("swin_nano").eval()
    save_weights(backbone, tmp_path / "w.safetensors")
    model: Any = features_of("swin_nano", weights=tmp_path / "w.safetensors", stages=(2, 4)).eval()
    assert [(spec.name, spec.stride) for spec in model.feature_specs] == [("stage2", 8), ("stage4", 32)]
    images = torch.randint(0, 256, (2, 3, 41, 50), dtype=torch.uint8)
    red = (images[:, 0] - 123.675) / 58.395
    green = (images[:, 1] - 116.28) / 57.12
    blue = (images[:, 2] - 103.53) / 57.375
    with torch.inference_mode():
        expected = backbone(torch.stack([red, green, blue], dim=1))
        maps = model(images)
    assert len(maps) == 2
    torch.testing.assert_close(maps[0], expected[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(maps[1], expected[3], rtol=1e-5, atol=1e-5)


def test_random_weights_are_always_the_same_and_leave_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = (features_of("swin_nano", random_weights=True).state_dict() for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert all(value.equal(second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "this needs weights"),
        ({"random_weights": True, "weights": "w.pth"}, "and not both"),
        ({"random_weights": True, "stages": (1, 5)}, "stage1, stage2, stage3, stage4; there is no stage5"),
        ({"random_weights": True, "stages": (2, 1)}, "ascending numbers from 1"),
        ({"random_weights": True, "stages": (0,)}, "ascending numbers from 1"),
        ({"random_weights": True, "neck": True}, "a backbone without a neck"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        features_of("swin_nano", **options)


@pytest.mark.parametrize(
    "name", [name for name in ("swin_nano", "swin_mlp_tiny_c24", "swinv2_tiny") if name in VARIANTS]
)
def test_features_of_every_family_are_exported(name: str, tmp_path: Path) -> None:
    Image.new("RGB", (70, 50), "teal").save(tmp_path / "teal.png")
    store = swin_dense.export_features(
        name, tmp_path / "teal.png", tmp_path / "features", random_weights=True, device="cpu"
    )
    with torch.device("meta"):
        specs = create_backbone(name).feature_specs
    for spec in specs:
        assert store[0][spec.name].shape == (spec.channels, -(-50 // spec.stride), -(-70 // spec.stride))
        assert store[0][spec.name].isfinite().all() and store[0][spec.name].float().std() > 0


def test_a_mistyped_variant_is_named() -> None:
    with pytest.raises(ConfigError, match='did you mean "swin_nano"'):
        features_of("swin_nan", random_weights=True)


@pytest.mark.filterwarnings("ignore:swin3d_nano")  # no weights are given
def test_features_of_a_model_of_videos_are_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match="swin3d_nano: features of videos are those of clips; export_features stores"):
        swin_dense.load("swin3d_nano", device="cpu").features(torch.zeros(3, 32, 32, dtype=torch.uint8))
