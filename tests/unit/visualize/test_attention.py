"""Attention in windows and position biases: what lies where, and that they are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from swin_dense.backbones.attention import relative_position_bias
from swin_dense.visualize.features import WindowView, bias_maps, draw_attention, draw_biases


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(8))


def test_a_bias_map_tells_the_bias_by_where_the_key_lies() -> None:
    table, side = random(25, 2), 3
    maps, bias = bias_maps(table), relative_position_bias(table, (side, side))
    for query in range(9):
        for key in range(9):
            down, right = key // side - query // side, key % side - query % side
            assert torch.equal(maps[:, down + side - 1, right + side - 1], bias[:, query, key])


def window(rows: list[int], columns: list[int], grid: tuple[int, int] = (6, 7)) -> WindowView:
    weights = random(2, len(rows) * len(columns), len(rows) * len(columns)).softmax(-1)
    return WindowView("stage 1", 4, grid, torch.tensor(rows), torch.tensor(columns), weights)


def test_a_wrapped_window_is_drawn_in_pieces_without_its_padding() -> None:
    """Of a grid of 6 x 7 tokens, padded to 8 x 8, in windows of 4: the last, shifted by two."""
    last = window([6, 7, 0, 1], [6, 7, 0, 1])
    assert last.pieces() == [(6, 0, 1, 2), (0, 0, 2, 2)]
    assert last.query() == (2, 2)
    placed = last.over_grid(torch.arange(16.0))
    assert placed.shape == (6, 7)
    assert placed[0, 0] == 10 and placed[0, 1] == 11 and placed[1, 0] == 14 and placed[1, 6] == 12
    assert int(placed.isnan().sum()) == 42 - 6


def test_the_query_is_the_middle_token_or_the_real_one_nearest_to_it() -> None:
    assert window([0, 1, 2], [3, 4, 5]).query() == (1, 1)
    assert window([4, 5, 6, 7], [4, 5, 6, 7]).query() == (1, 2)
    assert window([5, 6, 7], [6, 7, 8]).query() == (0, 0)


def test_pictures_are_written(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (3, 24, 27), dtype=torch.uint8)
    draw_attention(image, [window([0, 1, 2, 3], [2, 3, 4, 5]), window([6, 7, 0, 1], [6, 7, 0, 1])], tmp_path / "a.png")
    draw_biases([("block 1", random(25, 9))], tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / name) as picture:
            colours = np.asarray(picture.convert("RGB"))
        assert colours.shape[1] > 400
        assert len(np.unique(colours.reshape(-1, 3), axis=0)) > 50
