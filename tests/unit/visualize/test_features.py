"""Principal components and heat maps: the numbers behind them, and that they are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from swin_dense.visualize.features import (
    StageFeatures,
    draw_components,
    draw_heat_maps,
    principal_components,
)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(8))


def test_principal_components_are_those_of_numpys_svd() -> None:
    values = random(7, 5, 6) * torch.arange(1.0, 8.0).view(7, 1, 1) + 3.0
    components, shares = principal_components(values)
    cells = values.double().flatten(1).numpy()
    cells = cells - cells.mean(1, keepdims=True)
    directions, lengths, _ = np.linalg.svd(cells, full_matrices=False)
    np.testing.assert_allclose(shares.numpy(), (lengths**2 / (lengths**2).sum())[:3], rtol=1e-9)
    for found, direction in zip(components.flatten(1).numpy(), directions.T[:3], strict=True):
        expected = direction @ cells
        np.testing.assert_allclose(found, expected * np.sign(expected[np.abs(expected).argmax()]), atol=1e-9)


@pytest.mark.parametrize("values", [torch.zeros(4, 3, 3), torch.ones(2, 1, 1), random(1, 2, 2)])
def test_principal_components_of_next_to_nothing_are_finite(values: torch.Tensor) -> None:
    components, shares = principal_components(values)
    assert components.shape == (3, *values.shape[1:])
    assert bool(components.isfinite().all() and shares.isfinite().all())


def test_pictures_are_written_whole_and_wide_enough_for_their_panels(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (3, 24, 27), dtype=torch.uint8)
    stages = [StageFeatures("stage 1", 4, random(8, 6, 7)), StageFeatures("stage 2", 8, random(16, 3, 4))]
    draw_components(image, stages, tmp_path / "new" / "pca.png")
    draw_heat_maps(image, {"stage 1": np.zeros((24, 27), np.float32)}, "title", tmp_path / "h.png")
    for name in ("new/pca.png", "h.png"):
        with Image.open(tmp_path / name) as picture:
            colours = np.asarray(picture.convert("RGB"))
        assert colours.shape[1] > 400
        assert len(np.unique(colours.reshape(-1, 3), axis=0)) > 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.png", "new"]
