from __future__ import annotations

import pytest
import torch

from swin_dense.errors import WeightsError
from swin_dense.weights.sizes import fit_positions, resize_bias_table


def plane(side: int, slope_rows: float, slope_columns: float) -> torch.Tensor:
    """(side, side) values that rise linearly, over coordinates from -1 to 1 at the outer edges of the cells."""
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) * 2 / side - 1
    return slope_rows * centres[:, None] + slope_columns * centres[None, :]


def test_a_bias_table_keeps_its_slope_along_rows_and_columns_of_every_head() -> None:
    slopes = [(1.0, 0.2), (-0.3, 2.0)]
    table = torch.stack([plane(13, *slope).flatten() for slope in slopes], dim=1)
    resized = resize_bias_table(table, 23 * 23)
    assert resized.shape == (23 * 23, 2)
    for head, slope in enumerate(slopes):
        inner = (resized[:, head].view(23, 23) - plane(23, *slope))[4:-4, 4:-4]
        assert inner.abs().max() < 0.02


def test_a_table_of_the_same_window_is_not_touched() -> None:
    table = torch.randn(49, 3)
    assert resize_bias_table(table, 49) is table


def test_half_precision_is_resized_in_full_precision() -> None:
    table = torch.randn(13 * 13, 2)
    for dtype in (torch.float16, torch.bfloat16):
        expected = resize_bias_table(table.to(dtype).float(), 49).to(dtype)
        assert torch.equal(resize_bias_table(table.to(dtype), 49), expected)


def test_a_table_that_is_not_of_a_square_window_is_refused() -> None:
    with pytest.raises(WeightsError, match="48 positions: they do not form a square"):
        resize_bias_table(torch.zeros(48, 3), 49)


def test_an_embedding_keeps_its_slope() -> None:
    embedding = torch.stack([plane(14, 1, 0), plane(14, 0, -2)])[None]
    resized = fit_positions("absolute_pos_embed", embedding, torch.empty(1, 2, 24, 24))
    expected = torch.stack([plane(24, 1, 0), plane(24, 0, -2)])[None]
    assert (resized - expected)[..., 4:-4, 4:-4].abs().max() < 0.02


def test_the_official_formulas() -> None:
    """As published for fine-tuning at another image size: bicubic with PyTorch's defaults, head by head."""
    table, tokens = torch.randn(13 * 13, 3), torch.randn(1, 14 * 14, 5)
    official = torch.nn.functional.interpolate(table.permute(1, 0).view(1, 3, 13, 13), size=(23, 23), mode="bicubic")
    assert torch.equal(resize_bias_table(table, 23 * 23), official.view(3, 23 * 23).permute(1, 0))
    grid = tokens.reshape(-1, 14, 14, 5).permute(0, 3, 1, 2)
    official = torch.nn.functional.interpolate(grid, size=(24, 24), mode="bicubic")
    assert torch.equal(fit_positions("absolute_pos_embed", grid, torch.empty(1, 5, 24, 24)), official)
