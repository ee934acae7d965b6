"""Split and factorized attention over space and time: the designs of Table 4 of the Video Swin paper."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.random_values import randomised
from swin_dense.backbones import SwinTransformer
from swin_dense.backbones.plain import PlainSwin
from swin_dense.errors import ConfigError, WeightsError
from swin_dense.weights import load_weights
from swin_dense.weights.convert import convert_state_dict

DESIGNS = pytest.mark.parametrize("design", ["split", "factorized"])
SMALL = {"depths": (2, 2), "num_heads": (1, 2), "patch_size": (2, 4, 4), "out_indices": (0, 1)}


def network(design: str, **options: object) -> SwinTransformer:
    return SwinTransformer(8, window_size=(4, 3, 3), spatiotemporal_attention=design, **{**SMALL, **options}).eval()


def clip(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))


def changed_frames(model: SwinTransformer, stage: int = -1) -> list[bool]:
    """Whether each frame of a map of 16 x 28 x 28 pixels changes with the first two frames of the clip."""
    first = clip(16, 28, 28)
    second = first.clone()
    second[:, :, :2] += torch.randn(2, 3, 2, 28, 28, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return (model(first)[stage] != model(second)[stage]).any((0, 1), keepdim=True)[0, 0].any(-1).any(-1).tolist()


class TestInformationOverTime:
    def test_factorized_blocks_carry_it_through_regular_and_shifted_windows(self) -> None:
        assert changed_frames(randomised(network("factorized")), 0) == [True] * 6 + [False] * 2
        assert all(changed_frames(randomised(network("factorized"))))

    def test_split_layers_carry_it_behind_the_last_stage_alone(self) -> None:
        model = randomised(network("split"))
        assert changed_frames(model, 0) == [True] + [False] * 7
        assert changed_frames(model) == [True] * 6 + [False] * 2

    def test_a_window_of_all_frames_carries_it_everywhere_and_none_does_not(self) -> None:
        for design in ("split", "factorized"):
            model = randomised(SwinTransformer(8, window_size=(8, 3, 3), spatiotemporal_attention=design, **SMALL))
            assert all(changed_frames(model.eval()))
        model = randomised(SwinTransformer(8, window_size=(1, 3, 3), **SMALL))
        assert changed_frames(model.eval()) == [True] + [False] * 7


def test_a_new_factorized_network_is_the_spatial_one() -> None:
    spatial = randomised(SwinTransformer(8, window_size=(1, 3, 3), **SMALL)).eval()
    model = network("factorized")
    report = load_weights(model, spatial.state_dict())
    assert report.missing and {note.reason for note in report.missing} == {
        "attention over time alone, which the checkpoint lacks"
    }
    with torch.no_grad():
        for ours, theirs in zip(model(clip(9, 50, 70)), spatial(clip(9, 50, 70)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_new_factorized_network_learns_its_weights_of_time() -> None:
    model = network("factorized").train()
    for _ in range(2):
        model.zero_grad()
        sum((x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum() for x in model(clip(9, 28, 28))).backward()
        unused = {name for name, one in model.named_parameters() if not one.grad.any()}
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad, alpha=1e-3)
    assert not unused


@DESIGNS
@pytest.mark.parametrize("size", [(16, 64, 96), (9, 57, 70), (5, 50, 66), (1, 3, 5)])
def test_the_forms_for_exporters_and_compilers_are_equal(design: str, size: tuple[int, int, int]) -> None:
    model = randomised(network(design))
    with torch.no_grad():
        forms = model(clip(*size)), PlainSwin(model)(clip(*size)), model._maps(clip(*size), model._grids(size))
    for right, *others in zip(*forms, strict=True):
        assert all((other - right).abs().max() <= 1e-5 * right.abs().max() for other in others)


@DESIGNS
def test_gradients_of_the_form_for_compilers_are_equal(design: str) -> None:
    model, batch = randomised(network(design)).train(), clip(9, 57, 70)
    gradients = []
    for maps in (model(batch), model._maps(batch, model._grids(batch.shape[2:]))):
        total = sum((x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum() for x in maps)
        gradients.append(torch.autograd.grad(total, list(model.parameters())))
    for right, ours in zip(*gradients, strict=True):
        assert (right - ours).abs().max() <= 1e-4 * right.abs().max()


@DESIGNS
def test_it_compiles_as_one_graph(design: str) -> None:
    model = randomised(network(design, depths=(1,), num_heads=(2,), out_indices=(0,)))
    torch.compiler.reset()
    with torch.no_grad():
        expected = model(clip(9, 57, 70))
        model.compile(backend="eager", fullgraph=True)
        torch.testing.assert_close(model(clip(9, 57, 70)), expected, rtol=1e-5, atol=1e-5)


@DESIGNS
def test_weights_of_images_and_of_other_windows_are_fitted(design: str) -> None:
    images = SwinTransformer(8, (2, 2), (1, 2), 3, out_indices=(0, 1))
    report = load_weights(network(design), images.state_dict())
    assert all(".temporal." in note.name for note in report.missing)
    longer = SwinTransformer(8, window_size=(6, 3, 3), spatiotemporal_attention=design, **SMALL)
    report = load_weights(longer, randomised(network(design)).state_dict())
    changed = [note for note in report.interpolated if note.reason == "resized from windows of 4x1x1"]
    assert not report.missing and len(changed) == (2 if design == "split" else 4)
    joint = network("joint")
    with pytest.raises(WeightsError, match=r"no place in the model.*temporal"):
        load_weights(joint, network(design).state_dict())
    with pytest.raises(WeightsError, match="temporal"):
        convert_state_dict(network(design).state_dict(), "torchvision")


@DESIGNS
def test_every_parameter_has_a_depth_and_frozen_stages_have_no_gradient(design: str) -> None:
    model = network(design)
    depths = model.parameter_depths()
    assert depths.keys() == dict(model.named_parameters()).keys()
    last = 7 if design == "split" else 5
    assert max(depths.values()) == depths["norm1.weight"] == last
    if design == "split":
        assert depths["layers.1.temporal.blocks.1.mlp.fc1.weight"] == 6
    without = network(design, out_indices=(0,))
    learning = {name for name, one in without.named_parameters() if one.requires_grad}
    assert not any(name.startswith("layers.1") for name in learning)
    frozen = network(design, frozen_stages=2)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_what_does_not_go_together_is_refused() -> None:
    for options, message in (
        ({"window_size": 7, "spatiotemporal_attention": "split"}, "needs windows of videos"),
        ({"window_size": (4, 3, 3), "patch_size": (2, 4, 4), "spatiotemporal_attention": "divided"}, "must be"),
        (
            {"window_size": (4, 3, 3), "patch_size": (2, 4, 4), "spatiotemporal_attention": "split", "mixing": "mlp"},
            "has no attention",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            SwinTransformer(**options)
