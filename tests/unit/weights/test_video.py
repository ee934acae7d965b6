"""Weights of videos: official files in and out, and models of images inflated to models of videos."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.random_values import randomised
from swin_dense.backbones import SwinClassifier, SwinTransformer
from swin_dense.errors import WeightsError
from swin_dense.models import take_weights
from swin_dense.weights import convert_weights, load_weights, save_weights
from swin_dense.weights.convert import convert_state_dict
from swin_dense.weights.sizes import video_window

SMALL: dict[str, Any] = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2)}
VIDEO = {**SMALL, "window_size": (2, 3, 3), "patch_size": (2, 4, 4)}


def official(classifier: SwinClassifier, last_norm: str = "norm") -> dict[str, Tensor]:
    """A checkpoint with the names of the official code, or of mmaction2."""
    state, tokens = {}, prod(classifier.window)
    for name, tensor in classifier.state_dict().items():
        place = name.replace("head.", "cls_head.fc_cls.") if name.startswith("head.") else f"backbone.{name}"
        state[place.replace("backbone.norm.", f"backbone.{last_norm}.")] = tensor
        if name.endswith("bias_table"):
            state[place.replace("bias_table", "index")] = torch.zeros(tokens, tokens, dtype=torch.int64)
    return state


@pytest.mark.parametrize("last_norm", ["norm", "norm1"])
def test_official_checkpoints_and_those_of_mmaction2_are_read(last_norm: str) -> None:
    trained, model = randomised(SwinClassifier(5, **VIDEO)), SwinClassifier(5, **VIDEO)
    report = load_weights(model, official(trained, last_norm))
    assert report.format == "official" and not report.missing
    assert {note.reason for note in report.skipped} == {"recomputed"}
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in trained.state_dict().items())
    backbone = SwinTransformer(**VIDEO, out_indices=(0, 1))
    reasons = {note.reason for note in load_weights(backbone, official(trained)).skipped}
    assert reasons == {"recomputed", "head of a classifier", "last norm of a classifier"}


def test_official_windows_of_16_frames_load_as_they_are_and_what_resizes_them_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The layout of swin_base_patch244_window1677_kinetics400_22k and of swin_base_patch244_window1677_sthv2."""
    trained = randomised(SwinClassifier(5, **{**VIDEO, "window_size": (16, 7, 7)}))
    state, path = official(trained), tmp_path / "window1677.pth"
    attention = "backbone.layers.0.blocks.1.attn.relative_position_"
    assert state[f"{attention}bias_table"].shape == (5239, 1) and state[f"{attention}index"].shape == (784, 784)
    torch.save({"meta": {"mmaction_version": "0.15.0", "epoch": 30}, "state_dict": state}, path)
    same, shorter = (SwinClassifier(5, **{**VIDEO, "window_size": (frames, 7, 7)}) for frames in (16, 8))
    assert not take_weights(same, path).interpolated and not caplog.text
    assert all(torch.equal(same.state_dict()[name], tensor) for name, tensor in trained.state_dict().items())
    assert {note.reason for note in take_weights(shorter, path).interpolated} == {"resized from windows of 16x7x7"}
    assert "window1677.pth is for windows or images of another size: 4 tensors differ" in caplog.text


@pytest.mark.parametrize("style", ["official", "torchvision"])
def test_every_value_comes_back_from_another_format(style: str, tmp_path: Path) -> None:
    trained = randomised(SwinClassifier(5, **VIDEO))
    save_weights(trained, tmp_path / "ours.safetensors")
    convert_weights(tmp_path / "ours.safetensors", tmp_path / "theirs.pth", style)
    written = torch.load(tmp_path / "theirs.pth", weights_only=True)
    written = written["state_dict"] if style == "official" else written
    first = "backbone." if style == "official" else ""
    index = f"{first}{'features.0.0' if first == '' else 'layers.0.blocks.0'}.attn.relative_position_index"
    assert written[index].shape == (18, 18) and f"{first}patch_embed.proj.weight" in written
    model = SwinClassifier(5, **VIDEO)
    assert load_weights(model, tmp_path / "theirs.pth").format == style
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in trained.state_dict().items())
    with pytest.raises(WeightsError, match="the timm format has no models of videos"):
        convert_state_dict(trained.state_dict(), "timm")


@pytest.mark.parametrize("frames", [1, 2])
def test_a_video_of_one_repeated_image_has_the_features_of_the_image(frames: int) -> None:
    """All keys of a window come as often as its frames, which changes no softmax; fewer frames fit in one window."""
    images = randomised(SwinTransformer(**SMALL, window_size=4, out_indices=(0, 1)))
    video = SwinTransformer(**SMALL, window_size=(4, 4, 4), patch_size=(frames, 4, 4), out_indices=(0, 1)).eval()
    report = load_weights(video, images.state_dict())
    assert len(report.loaded) + len(report.converted) == len(video.state_dict())
    notes = {note.reason for note in report.converted}
    assert notes == {
        f"inflated: repeated over {frames} frames and divided by {frames}",
        "inflated: repeated over 7 offsets in time",
    }
    image = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for length in (8 * frames, 3 * frames):
            clip = image[:, :, None].expand(-1, -1, length, -1, -1)
            for ours, still in zip(video(clip), images(image), strict=True):
                for moment in ours.unbind(2):
                    assert (moment - still).norm() <= 1e-5 * still.norm()


def test_windows_of_another_size_resize_the_tables_in_space_and_time() -> None:
    plane = torch.linspace(-1, 1, 5)[:, None] + torch.linspace(0, 3, 5)[None]  # M = 3, a ramp
    images = SwinTransformer(**SMALL, window_size=3, out_indices=(0, 1))
    for name, table in images.state_dict().items():
        if name.endswith("bias_table"):
            table.copy_(plane.flatten()[:, None])
    larger = SwinTransformer(**SMALL, window_size=(2, 5, 5), patch_size=(2, 4, 4), out_indices=(0, 1))
    report = load_weights(larger, images.state_dict())
    assert any("resized (bicubic) from 25 to 81 positions, inflated" in note.reason for note in report.interpolated)
    table = larger.layers[0].blocks[0].attn.relative_position_bias_table.view(3, 9, 9)
    assert torch.equal(table[0], table[2]) and (table.diff(dim=1) > 0).all() and (table.diff(dim=2) > 0).all()

    longer = SwinTransformer(**SMALL, window_size=(4, 5, 5), patch_size=(2, 4, 4), out_indices=(0, 1))
    with torch.no_grad():
        table += torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1)
    report = load_weights(longer, larger.state_dict())
    assert {note.reason for note in report.interpolated} == {"resized from windows of 2x5x5"}
    grown = longer.layers[0].blocks[0].attn.relative_position_bias_table.view(7, 9, 9)
    torch.testing.assert_close(grown[3], table[1])
    assert (grown.diff(dim=0) >= 0).all()


@pytest.mark.parametrize("window", [(8, 7, 7), (16, 7, 7), (4, 7, 7), (5, 7, 7), (8, 12, 12), (16, 12, 12)])
def test_the_window_of_a_table_is_found(window: tuple[int, int, int]) -> None:
    rows = (2 * window[0] - 1) * (2 * window[1] - 1) ** 2
    assert video_window(rows, None) == window
    assert video_window(rows, window[0] * window[1] ** 2) == window
    with pytest.raises(WeightsError, match="no|not"):
        video_window(rows + 1, 3)
