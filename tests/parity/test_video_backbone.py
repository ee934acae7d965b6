"""The backbone in three dimensions gives the maps, logits and gradients of torchvision's Video Swin.

Where a map is lower or narrower than the window, torchvision reads the position biases of other offsets than those of
the tokens, as the official code does; sizes here have no such maps. Fewer frames than the window are read right.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.random_values import randomised
from helpers.reference_models import assert_same_logits_and_gradients
from swin_dense.backbones import SwinClassifier, SwinTransformer, create_classifier
from swin_dense.backbones.classifier import PlainClassifier
from swin_dense.backbones.plain import PlainSwin
from swin_dense.errors import ConfigError
from swin_dense.weights import load_weights

SMALL: dict[str, Any] = {"embed_dim": 8, "depths": (2, 2, 2), "num_heads": (1, 2, 4), "patch_size": (2, 4, 4)}

# Frames, height, width; windows: shifted in all dimensions, odd sizes, one window in time, fewer frames than a window.
CASES = [
    ((16, 64, 96), (4, 2, 2)),
    ((9, 57, 70), (2, 3, 3)),
    ((32, 100, 84), (8, 5, 5)),
    ((8, 48, 48), (4, 3, 3)),
    ((5, 50, 66), (8, 3, 3)),
    ((1, 48, 48), (8, 2, 2)),
]


def random_clips(batch: int, *size: int) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(2))


def small_of_torchvision(window: tuple[int, int, int]) -> nn.Module:
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    sizes = {key: list(value) if isinstance(value, tuple) else value for key, value in SMALL.items()}
    return randomised(SwinTransformer3d(window_size=list(window), stochastic_depth_prob=0.0, num_classes=7, **sizes))


def maps_of_torchvision(reference: Any, clips: Tensor) -> list[Tensor]:
    tokens, maps = reference.patch_embed(clips), []
    for index, layer in enumerate(reference.features):
        tokens = layer(tokens)
        if index % 2 == 0:
            maps.append(tokens.movedim(-1, 1))
    return maps


def loaded(reference: nn.Module, model: SwinClassifier) -> SwinClassifier:
    report = load_weights(model, reference.state_dict(), format="torchvision")
    assert not report.missing and {note.reason for note in report.skipped} <= {"recomputed"}
    return model.eval()


@pytest.mark.parametrize(("size", "window"), CASES)
def test_maps_equal_those_of_torchvision(size: tuple[int, int, int], window: tuple[int, int, int]) -> None:
    reference = small_of_torchvision(window).eval()
    classifier = loaded(reference, SwinClassifier(7, window_size=window, **SMALL))
    backbone = classifier.with_maps((0, 1, 2))
    clips = random_clips(2, *size)
    with torch.inference_mode():
        expected = maps_of_torchvision(reference, clips)
        compiled = backbone._maps(clips, backbone._grids(size))
        for maps in (backbone(clips), compiled, PlainSwin(backbone)(clips)):
            for number, (spec, ours, theirs) in enumerate(zip(backbone.feature_specs, maps, expected, strict=True)):
                assert ours.shape == theirs.shape == (2, spec.channels, -(-size[0] // 2), *theirs.shape[3:])
                assert spec.temporal_stride == 2 and spec.stride == 4 * 2**number
                normed = backbone.get_submodule(f"norm{number}")(theirs.movedim(1, -1)).movedim(-1, 1)
                assert (ours - normed).abs().max() <= 1e-5 * normed.abs().max()


@pytest.mark.parametrize(("size", "window"), CASES[1:5])
def test_logits_and_gradients_equal_those_of_torchvision(
    size: tuple[int, int, int], window: tuple[int, int, int]
) -> None:
    reference = small_of_torchvision(window)
    model = loaded(reference, SwinClassifier(7, window_size=window, **SMALL)).train()
    assert_same_logits_and_gradients(model, reference, random_clips(2, *size), "torchvision")


@pytest.mark.parametrize(
    ("variant", "builder"), [("swin3d_tiny", "swin3d_t"), ("swin3d_small", "swin3d_s"), ("swin3d_base", "swin3d_b")]
)
def test_the_published_sizes_give_the_logits_of_torchvision(variant: str, builder: str) -> None:
    import torchvision

    reference = randomised(getattr(torchvision.models.video, builder)()).eval()
    model = loaded(reference, create_classifier(variant, 400))
    clips = random_clips(1, 3, 224, 224)
    with torch.inference_mode():
        expected = reference(clips)
        assert (model(clips) - expected).norm() <= 1e-5 * expected.norm()


def test_small_maps_have_the_biases_of_their_own_offsets() -> None:
    """A window larger than the map gives what one as large as the map gives, with the middle of its table."""
    options = {"embed_dim": 8, "depths": (2,), "num_heads": (2,), "patch_size": (1, 4, 4), "out_indices": (0,)}
    large = randomised(SwinTransformer(window_size=(4, 5, 5), **options)).eval()
    small = SwinTransformer(window_size=(2, 3, 4), **options).eval()
    state = dict(large.state_dict())
    for name in state:
        if name.endswith("bias_table"):
            state[name] = state[name].view(7, 9, 9, -1)[2:5, 2:7, 1:8].flatten(0, 2)
    small.load_state_dict(state)
    clips = random_clips(2, 2, 12, 16)
    with torch.inference_mode():
        expected = small(clips)[0]
        for form in (large, PlainSwin(large)):
            assert (form(clips)[0] - expected).norm() <= 1e-5 * expected.norm()


def test_the_plain_classifier_gives_the_same_logits() -> None:
    model = randomised(SwinClassifier(7, window_size=(4, 3, 3), **SMALL)).eval()
    clips = random_clips(2, 9, 50, 70)
    with torch.inference_mode():
        expected = model(clips)
        assert (PlainClassifier(model).eval()(clips) - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("shifts", [(False, True, True), (True, False, True), (False, False, False)])
def test_windows_shift_along_the_dimensions_that_are_wanted(shifts: tuple[bool, ...]) -> None:
    """A row of blocks of torchvision's whose shift is set to these dimensions."""
    reference = small_of_torchvision((4, 3, 3)).eval()
    for module in reference.modules():
        if hasattr(module, "shift_size"):
            module.shift_size = [step * wanted for step, wanted in zip(module.shift_size, shifts, strict=True)]
    model = loaded(reference, SwinClassifier(7, window_size=(4, 3, 3), shift_windows=shifts, **SMALL))
    clips = random_clips(2, 12, 48, 52)
    with torch.inference_mode():
        expected = reference(clips)
        for form in (model, PlainClassifier(model)):
            assert (form(clips) - expected).norm() <= 1e-5 * expected.norm()
    with pytest.raises(ConfigError, match="one for each dimension"):
        SwinTransformer(window_size=7, shift_windows=shifts)
