"""A tiny model and images of several sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from helpers.random_values import randomised
from swin_dense.backbones import SwinTransformer
from swin_dense.export.models import RawImages

SIZES = ((40, 56), (64, 48), (40, 56), (33, 50), (64, 48), (40, 56), (21, 90), (64, 48), (40, 56), (33, 50))
"""Heights and widths; some are no multiples of any stride."""


@pytest.fixture(scope="session")
def model() -> nn.Module:
    backbone = randomised(SwinTransformer(8, (1, 2, 1), (1, 2, 4), window_size=3, out_indices=(0, 1, 2)))
    return RawImages(backbone, feature_specs=backbone.feature_specs)


def write_image(path: Path, size: tuple[int, int], seed: int) -> Path:
    """Smooth random colours, so that a shifted or a wrongly resized image gives other features."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def draw() -> Callable[[Path, tuple[int, int], int], Path]:
    return write_image


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "images"
    for number, size in enumerate(SIZES):
        write_image(folder / f"{number}.png", size, number)
    return folder
