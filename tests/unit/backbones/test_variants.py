"""The named variants: published sizes, sane outputs, and messages for what is unknown."""

from __future__ import annotations

import pytest
import torch

from swin_dense.backbones import VARIANTS, create_backbone, create_classifier
from swin_dense.errors import ConfigError, WeightsError
from swin_dense.stats import model_stats
from swin_dense.weights import load_weights

PUBLISHED_MILLIONS = {
    # Of the classifiers, as timm lists them; Table 1 of the Swin paper rounds them to 29, 50, 88 and 197.
    "swin_tiny": 28.29,
    "swin_small": 49.61,
    "swin_base": 87.77,
    "swin_large": 196.53,
    "swin_base_384": 87.90,
    "swin_large_384": 196.74,
    "swinv2_tiny": 28.35,
    "swinv2_small": 49.73,
    "swinv2_base": 87.92,
}


VIDEO_SIZES = [
    # Name, other options, frames, and published millions of parameters and G of multiply-adds, rounded to whole ones:
    # Table 1, Table 3 (the window of Something-Something V2, 174 classes) and Table 5 (temporal dimension and window).
    ("swin3d_tiny", {}, 32, 28.2, 88),
    ("swin3d_small", {}, 32, 49.8, 166),
    ("swin3d_base", {}, 32, 88.1, 282),
    ("swin3d_large", {}, 32, 197.0, 604),
    ("swin3d_large_384", {}, 32, 200.0, 2107),
    ("swin3d_base", {"num_classes": 174, "window_size": (16, 7, 7)}, 32, 88.8, 321),
    ("swin3d_tiny", {"window_size": (16, 7, 7)}, 32, 28.5, 106),
    ("swin3d_tiny", {}, 16, 28.2, 44),
    ("swin3d_tiny", {"window_size": (4, 7, 7)}, 8, 28.0, 20),
    ("swin3d_tiny", {"window_size": (4, 7, 7)}, 32, 28.0, 79),
    ("swin3d_tiny", {"window_size": (16, 7, 7), "spatiotemporal_attention": "split"}, 32, 42.0, 83),  # Table 4
    ("swin3d_tiny", {"window_size": (16, 7, 7), "spatiotemporal_attention": "factorized"}, 32, 36.5, 95),
]


def test_all_variants_are_there() -> None:
    swin_mlp = [*(f"swin_mlp_tiny_c{channels}" for channels in (24, 12, 6)), "swin_mlp_base"]
    videos = [name for name, _, _, _, _ in VIDEO_SIZES[:5]]
    assert list(VARIANTS) == ["swin_nano", *PUBLISHED_MILLIONS, *swin_mlp, "swin3d_nano", *videos]


@pytest.mark.parametrize("name", PUBLISHED_MILLIONS)
def test_parameters_are_as_many_as_published(name: str) -> None:
    with torch.device("meta"):
        model = create_backbone(name)
    dense = sum(parameter.numel() for parameter in model.parameters())
    widths = [spec.channels for spec in model.feature_specs]
    output_norms = 2 * sum(widths)
    classifier = 2 * widths[-1] + 1000 * (widths[-1] + 1)  # its last norm, and 1000 classes
    assert (dense - output_norms + classifier) / 1e6 == pytest.approx(PUBLISHED_MILLIONS[name], abs=0.006)


def test_dense_swin_tiny_has_27_5_million_parameters() -> None:
    with torch.device("meta"):
        model = create_backbone("swin_tiny")
    assert sum(parameter.numel() for parameter in model.parameters()) == 27_520_698


def test_overrides_reach_the_backbone() -> None:
    model = create_backbone("swin_nano", out_indices=[1, 3], drop_path_rate=0.3, window_size=5)
    assert [spec.name for spec in model.feature_specs] == ["stage2", "stage4"]
    assert model.layers[3].blocks[1].drop_path == pytest.approx(0.3)
    assert model.layers[0].blocks[0].attn.relative_position_bias_table.shape == (81, 2)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match='unknown backbone "swin_tinny"; did you mean "swin_tiny"'):
        create_backbone("swin_tinny")
    with pytest.raises(ConfigError, match="valid: .*swin_base, .*swin_tiny, .*swinv2_tiny"):
        create_backbone("resnet50")
    with pytest.raises(ConfigError, match='no option "drop_path"; did you mean "drop_path_rate"'):
        create_backbone("swin_tiny", drop_path=0.2)
    with pytest.raises(ConfigError, match="out_indices"):
        create_backbone("swin_tiny", out_indices=(4,))


PUBLISHED_MACS = {
    # Of the classifiers, in G: Table 1 of the Swin paper, and for Swin-L at 224 the official repository.
    "swin_tiny": 4.5,
    "swin_small": 8.7,
    "swin_base": 15.4,
    "swin_large": 34.5,
    "swin_base_384": 47.0,
    "swin_large_384": 103.9,
}


@pytest.mark.parametrize("name", PUBLISHED_MACS)
def test_a_classifier_has_the_published_size(name: str) -> None:
    side = VARIANTS[name].pretrain_image_size
    with torch.device("meta"):
        classifier = create_classifier(name)
    size = model_stats(classifier, lambda module: module(torch.zeros(1, 3, side, side, device="meta")))
    assert size.params / 1e6 == pytest.approx(PUBLISHED_MILLIONS[name], abs=0.006)
    assert size.macs / 1e9 == pytest.approx(PUBLISHED_MACS[name], rel=0.005)


@pytest.mark.parametrize(("name", "options", "frames", "millions", "macs"), VIDEO_SIZES)
def test_a_classifier_of_videos_has_the_published_size(
    name: str, options: dict[str, object], frames: int, millions: float, macs: float
) -> None:
    side = VARIANTS[name].pretrain_image_size
    with torch.device("meta"):
        classifier = create_classifier(name, **{"num_classes": 400, **options})
    size = model_stats(classifier, lambda module: module(torch.zeros(1, 3, frames, side, side, device="meta")))
    assert size.params / 1e6 == pytest.approx(millions, rel=0.01)
    assert size.macs / 1e9 == pytest.approx(macs, rel=0.01, abs=0.5)


def test_a_head_of_other_classes_is_refused_with_the_way_to_do_without() -> None:
    trained, classifier = create_classifier("swin_nano", 30), create_classifier("swin_nano", 5)
    with pytest.raises(WeightsError, match=r're-initialise these layers: ignore=\["head"\]'):
        load_weights(classifier, trained.state_dict())
    report = load_weights(classifier, trained.state_dict(), ignore=["head"])
    assert [note.name for note in report.missing] == ["head.weight", "head.bias"]
    assert torch.equal(classifier.norm.weight, trained.norm.weight)


@pytest.mark.parametrize("option", ["out_indices", "fit_windows"])
def test_a_classifier_decides_what_it_reads(option: str) -> None:
    with pytest.raises(ConfigError, match=option):
        create_classifier("swin_nano", **{option: (0,)})
