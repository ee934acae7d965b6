"""Swin Transformer V2 is that of torchvision, timm and transformers, and their weights come and go unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.random_values import randomised
from helpers.reference_models import assert_same_logits_and_gradients
from swin_dense.backbones import SwinClassifier, SwinTransformer, create_backbone, create_classifier
from swin_dense.backbones.classifier import PlainClassifier
from swin_dense.errors import WeightsError
from swin_dense.weights import convert_state_dict, load_weights

SMALL: dict[str, Any] = {"embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}


def random_images(*size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(2))


def of_torchvision(window: int = 8) -> nn.Module:
    from torchvision.models import swin_transformer as reference

    options = {"patch_size": [4, 4], "window_size": [window, window], "stochastic_depth_prob": 0.0, "num_classes": 30}
    sizes = {key: list(value) if isinstance(value, tuple) else value for key, value in SMALL.items()}
    parts = {"block": reference.SwinTransformerBlockV2, "downsample_layer": reference.PatchMergingV2}
    return of_published_kind(reference.SwinTransformer(**options, **sizes, **parts))


def of_published_kind(model: nn.Module) -> nn.Module:
    """Random weights in which torchvision's bias of keys, which is without effect, is zero as in published ones."""
    randomised(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("attn.qkv.bias"):
                parameter.view(3, -1)[1].zero_()
    return model


def of_timm(size: int, window: int = 8, pretrained: tuple[int, ...] = (0, 0, 0, 0)) -> nn.Module:
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    model = SwinTransformerV2(
        img_size=size, window_size=window, num_classes=30, pretrained_window_sizes=pretrained, **SMALL
    )
    return randomised(model)


def of_transformers(size: int, window: int = 8) -> nn.Module:
    from transformers import Swinv2Config, Swinv2ForImageClassification

    sizes = {"embed_dim": 16, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8]}
    options = {"image_size": size, "window_size": window, "num_labels": 30, "drop_path_rate": 0.0}
    return randomised(Swinv2ForImageClassification(Swinv2Config(**options, **sizes)))


def loaded(reference: nn.Module, style: str, **options: Any) -> SwinClassifier:
    model = SwinClassifier(30, **{"window_size": 8, "pretrain_image_size": 256, "version": 2, **SMALL, **options})
    report = load_weights(model, reference.state_dict())
    assert report.format == style and not report.missing and {note.reason for note in report.skipped} <= {"recomputed"}
    return model.eval()


def assert_same_in_float64(model: nn.Module, reference: nn.Module, images: Tensor) -> None:
    """Temperatures of 0.01 make rounding a hundred times larger."""
    assert_same_logits_and_gradients(model.double(), reference.double(), images.double())


@pytest.mark.parametrize(("size", "window"), [(256, 8), (512, 16)])
def test_torchvision(size: int, window: int) -> None:
    reference = of_torchvision(window)
    model = loaded(reference, "torchvision", window_size=window, pretrain_image_size=size)
    assert_same_in_float64(model, reference, random_images(size, size, batch=1))


def test_dense_models_pad_as_torchvision_does() -> None:
    """At 208 x 300 pixels in three stages; the last map is smaller than a window, where torchvision drops the shift."""
    reference, images = of_torchvision().double(), random_images(208, 300).double()
    model = SwinTransformer(version=2, window_size=8, out_indices=(0, 1, 2), pretrain_image_size=256, **SMALL)
    load_weights(model, reference.state_dict())
    with torch.inference_mode():
        for index, found in enumerate(model.double().eval()(images)):
            theirs = reference.features[: 2 * index + 2](images)
            expected = nn.functional.layer_norm(theirs, theirs.shape[-1:]).movedim(-1, 1)
            assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize(("size", "window"), [(256, 8), (256, 16), (128, 8)])
def test_timm(size: int, window: int) -> None:
    """Windows of 16 are fitted to the last map of 256 pixels, where the bias was learned in windows of 8."""
    reference = of_timm(size, window)
    model = loaded(reference, "timm", window_size=window, pretrain_image_size=size)
    assert_same_in_float64(model, reference, random_images(size, size))


def test_transformers() -> None:
    reference = of_transformers(256)
    model = loaded(reference, "huggingface")
    assert_same_in_float64(model, reference, random_images(256, 256))


def test_windows_of_another_size_see_the_bias_as_in_timm() -> None:
    """From windows of 4 to 8, in the last stage from 2 to 4: `pretrained_window_sizes` of the official configs."""
    small, large = of_timm(128, 4), of_timm(256, 8, pretrained=(4, 4, 4, 2))
    large.load_state_dict(small.state_dict())
    model = loaded(small, "timm", pretrained_window_sizes=(4, 4, 4, 2))
    images = random_images(256, 256)
    with torch.inference_mode():
        expected = large(images)
        for form in (model, PlainClassifier(model).eval()):
            assert (form(images) - expected).norm() <= 1e-5 * expected.norm()
        assert (loaded(small, "timm")(images) - expected).norm() > 1e-3 * expected.norm()


def test_the_report_says_which_windows_the_bias_is_now_computed_for() -> None:
    """Files with the index of token pairs, as those of torchvision, tell for which windows they were trained."""
    model = SwinClassifier(30, version=2, window_size=16, pretrained_window_sizes=(8, 8, 8, 8), **SMALL)
    report = load_weights(model, of_torchvision(8).state_dict())
    reasons = {note.reason for note in report.skipped}
    assert reasons == {"recomputed", "recomputed: windows of 64 tokens have 256 in the model"}
    assert not report.interpolated and not report.missing


@pytest.mark.parametrize(
    ("variant", "builder"), [("swinv2_tiny", "swin_v2_t"), ("swinv2_small", "swin_v2_s"), ("swinv2_base", "swin_v2_b")]
)
def test_the_published_sizes_give_the_logits_of_torchvision(variant: str, builder: str) -> None:
    import torchvision

    reference = randomised(getattr(torchvision.models, builder)())
    model = create_classifier(variant).eval()
    load_weights(model, reference.state_dict())
    images = random_images(256, 256, batch=1)
    with torch.inference_mode():
        expected = reference(images)
        assert (model(images) - expected).norm() <= 2e-5 * expected.norm()


@pytest.mark.parametrize("style", ["torchvision", "timm", "huggingface", "official"])
def test_weights_come_and_go_bit_for_bit(style: str) -> None:
    """What torchvision and the official code compute beside parameters is computed for the windows of the source."""
    reference = of_torchvision() if style == "torchvision" else of_timm(256)
    state = (of_transformers(256) if style == "huggingface" else reference).state_dict()
    if style == "official":
        state, _ = convert_state_dict(state, "official")
    own, _ = convert_state_dict(state, "swin-dense")
    back, report = convert_state_dict(own, style)
    assert back.keys() == state.keys() and not report.skipped
    assert all(torch.equal(back[name], state[name]) and back[name].dtype == state[name].dtype for name in state)
    for other in ("torchvision", "timm", "huggingface", "official"):
        there, _ = convert_state_dict(state, other)
        again, _ = convert_state_dict(there, "swin-dense")
        assert all(torch.equal(again[name], own[name]) for name in own) and again.keys() == own.keys()


def test_a_dense_backbone_takes_the_weights_of_a_classifier() -> None:
    reference = of_timm(256)
    dense = SwinTransformer(version=2, window_size=8, pretrain_image_size=256, **SMALL)
    report = load_weights(dense, reference.state_dict())
    assert {note.reason for note in report.skipped} == {"last norm of a classifier", "head of a classifier"}
    assert {note.reason for note in report.missing} == {"output norm that the checkpoint lacks"}
    merging = reference.state_dict()["layers.2.downsample.norm.weight"]
    assert torch.equal(dense.state_dict()["layers.1.downsample.norm.weight"], merging)
    wrong = create_backbone("swin_tiny")
    with pytest.raises(WeightsError, match="they look like swinv2_tiny, and the model's backbone is another one"):
        load_weights(wrong, create_backbone("swinv2_tiny").state_dict())
    with pytest.raises(WeightsError, match="they look like swin_tiny, and"):
        load_weights(create_backbone("swinv2_tiny"), wrong.state_dict())
    with pytest.raises(WeightsError, match="openmmlab format has no Swin Transformer V2; swin-dense, official, torch"):
        convert_state_dict(reference.state_dict(), "openmmlab")
