"""Attention over time is that of the block, and Grad-CAM explains the frames that matter."""

from __future__ import annotations

import torch

from helpers.random_values import randomised
from swin_dense.backbones import SwinTransformer
from swin_dense.backbones.plain import PlainSwin
from swin_dense.visualize.clips import window_attention
from swin_dense.visualize.inspection import InspectedModel, grad_cam

OPTIONS = {"embed_dim": 8, "depths": (2,), "num_heads": (2,), "window_size": (2, 2, 2), "patch_size": (1, 4, 4)}


def test_attention_of_a_window_is_that_of_its_tokens_alone() -> None:
    """Changing a token of another window changes no weight; changing one of the places that are named does."""
    backbone = PlainSwin(randomised(SwinTransformer(**OPTIONS, out_indices=(0,))))
    tokens = torch.randn(1, 4, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    for block in backbone.blocks(0):
        weights, places, middle = window_attention(block, tokens, (0, 0, 1))
        assert weights.shape == (2, 2, 2) and abs(weights.sum() - 1) < 1e-5 and middle == (1, 1, 1)
        own = torch.zeros(4, 4, 6, dtype=torch.bool)
        own[places[0][:, None, None], places[1][None, :, None], places[2][None, None]] = True
        assert own.sum() == 8 and [int(one[0]) for one in places] == [step for step in block.shift[:2]] + [
            2 + block.shift[2]
        ]
        elsewhere, inside = tokens.clone(), tokens.clone()
        elsewhere[0, ~own] += 1
        inside[0, places[0][0], places[1][0], places[2][0]] *= -1
        assert (window_attention(block, elsewhere, (0, 0, 1))[0] == weights).all()
        assert abs(window_attention(block, inside, (0, 0, 1))[0] - weights).max() > 1e-3


def test_grad_cam_finds_the_frames_that_are_explained() -> None:
    backbone = PlainSwin(randomised(SwinTransformer(**OPTIONS, out_indices=(0,))))

    def target(clips: torch.Tensor, _: object) -> tuple[str, torch.Tensor]:
        return "the fourth and fifth frame", backbone(clips.float().transpose(1, 2) / 255)[0][:, :, 3:5].square().sum()

    model = InspectedModel(backbone, lambda clip: clip.float() / 255, target)
    clip = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    _, (heat,) = grad_cam(model, clip, [backbone.blocks(0)[-1]])
    assert heat.shape == (8, 32, 32) and heat.min() == 0 and heat.max() > 0.99
    by_frame = heat.mean((1, 2))
    assert set(by_frame.argsort()[-2:]) == {3, 4} and by_frame[[0, 1, 2, 5, 6, 7]].max() < 0.02 * by_frame.max()
