"""The classification form gives the logits and gradients of torchvision's and timm's Swin with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.random_values import randomised
from helpers.reference_models import assert_same_logits_and_gradients
from swin_dense.backbones import SwinClassifier, SwinTransformer, create_classifier
from swin_dense.backbones.classifier import PlainClassifier
from swin_dense.weights import load_weights
from swin_dense.weights.convert import convert_state_dict

SMALL: dict[str, Any] = {"embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}


def random_images(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(2))


def small_of_torchvision(window: int = 7) -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer as Reference

    options = {"patch_size": [4, 4], "window_size": [window, window], "stochastic_depth_prob": 0.0, "num_classes": 30}
    sizes = {key: list(value) if isinstance(value, tuple) else value for key, value in SMALL.items()}
    return randomised(Reference(**options, **sizes))


def small_of_timm(size: tuple[int, int], window: int = 7) -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer as Reference

    return randomised(Reference(img_size=size, window_size=window, num_classes=30, **SMALL))


def loaded(reference: nn.Module, style: str, model: SwinClassifier) -> SwinClassifier:
    report = load_weights(model, reference.state_dict(), format=style)
    assert not report.missing and {note.reason for note in report.skipped} <= {"recomputed"}
    return model.eval()


# At 384 windows of 7 leave padding in every stage; windows of 12 fit.
@pytest.mark.parametrize(("size", "window"), [((224, 224), 7), ((384, 384), 7), ((384, 384), 12), ((448, 320), 7)])
def test_torchvision(size: tuple[int, int], window: int) -> None:
    reference = small_of_torchvision(window)
    model = loaded(reference, "torchvision", SwinClassifier(30, window_size=window, **SMALL))
    assert_same_logits_and_gradients(model, reference, random_images(2, *size), "torchvision")


# timm pads after the shift and not before it, so that sizes are compared whose maps are whole windows.
@pytest.mark.parametrize(("size", "window"), [((224, 224), 7), ((384, 384), 12), ((448, 224), 7)])
def test_timm(size: tuple[int, int], window: int) -> None:
    reference = small_of_timm(size, window)
    model = loaded(reference, "timm", SwinClassifier(30, window_size=window, **SMALL))
    assert_same_logits_and_gradients(model, reference, random_images(2, *size), "timm")


@pytest.mark.parametrize("size", [(64, 64), (64, 128)])
def test_windows_shrink_to_small_maps_as_in_timm(size: tuple[int, int]) -> None:
    """timm keeps smaller tables for smaller windows: the middle of ours."""
    reference, model = small_of_timm(size, 4), randomised(SwinClassifier(30, window_size=4, **SMALL))
    state = convert_state_dict(model.state_dict(), "timm", format="swin-dense")[0]
    theirs = reference.state_dict()
    for name, module in reference.named_modules():
        if hasattr(module, "relative_position_bias_table"):
            height, width = module.window_size
            table = state[f"{name}.relative_position_bias_table"].view(7, 7, -1)
            middle = table[4 - height : 3 + height, 4 - width : 3 + width].flatten(0, 1)
            state[f"{name}.relative_position_bias_table"] = middle
    assert any(theirs[name].shape[0] < 49 for name in theirs if name.endswith("bias_table"))
    reference.load_state_dict(state)
    images = random_images(2, *size)
    with torch.inference_mode():
        expected = reference(images)
        for form in (model, PlainClassifier(model).eval()):
            assert (form(images) - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize(
    ("variant", "builder"), [("swin_tiny", "swin_t"), ("swin_small", "swin_s"), ("swin_base", "swin_b")]
)
def test_the_published_sizes_give_the_logits_of_torchvision(variant: str, builder: str) -> None:
    import torchvision

    reference = randomised(getattr(torchvision.models, builder)())
    model = loaded(reference, "torchvision", create_classifier(variant))
    images = random_images(1, 224, 224)
    with torch.inference_mode():
        expected = reference(images)
        assert (model(images) - expected).norm() <= 1e-5 * expected.norm()


def test_the_plain_form_gives_the_same_logits_at_any_size() -> None:
    model = randomised(SwinClassifier(30, **SMALL))
    for size in ((224, 224), (97, 130), (20, 500)):
        images = random_images(2, *size)
        with torch.inference_mode():
            expected = model(images)
            assert (PlainClassifier(model).eval()(images) - expected).norm() <= 1e-5 * expected.norm()


def test_the_windows_of_a_dense_backbone_do_not_shrink() -> None:
    model = randomised(SwinClassifier(30, **SMALL))
    backbone = SwinTransformer(**SMALL, out_indices=(3,)).eval()
    load_weights(backbone, {**model.state_dict(), "norm3.weight": model.norm.weight, "norm3.bias": model.norm.bias})
    images = random_images(1, 224, 224)
    with torch.inference_mode():
        pooled = model.head(backbone(images)[0].mean((2, 3)))
        assert (pooled - model(images)).norm() > 1e-3 * pooled.norm()
