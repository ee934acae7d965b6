"""From pixels of the image on disk to cells of a map, and back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swin_dense.errors import DataError
from swin_dense.export.manifest import FeatureRecord

RECORD = FeatureRecord(
    image=0,
    path="a.png",
    sha256="",
    original_size=(100, 60),
    resized_size=(200, 90),
    scale=(2.0, 1.5),
    padding=(24, 6),
    stage="p3",
    shape=(7, 28, 12),
    stride=(8, 8),
    shard="",
    key="",
    dtype="float32",
    weights="",
    version="",
)

sizes = st.integers(1, 2000)


def test_a_cell_covers_its_pixels_of_the_resized_image() -> None:
    assert RECORD.to_feature([0, 0]).tolist() == [0, 0]
    assert RECORD.to_feature([100, 60]).tolist() == [25, 11.25]
    assert RECORD.to_image([[3, 4], [4, 5]]).tolist() == [[12, 64 / 3], [16, 80 / 3]]


def test_centers_lie_in_the_middle_of_their_cells() -> None:
    centers = RECORD.centers()
    assert centers.shape == (28, 12, 2)
    assert centers[3, 4].tolist() == pytest.approx([14, 24])
    rows, columns = torch.meshgrid(torch.arange(28), torch.arange(12), indexing="ij")
    assert torch.equal(RECORD.to_feature(centers).floor().long(), torch.stack([rows, columns], dim=-1))


def test_the_padding_is_outside() -> None:
    features = torch.zeros(7, 28, 12)
    assert features[RECORD.inside].shape == (7, 25, 12)


@given(
    height=sizes,
    width=sizes,
    new_height=sizes,
    new_width=sizes,
    stride=st.sampled_from([4, 8, 16, 32, 64]),
    point=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_there_and_back_is_the_same_point(
    height: int, width: int, new_height: int, new_width: int, stride: int, point: tuple[float, float]
) -> None:
    grid = (-(-new_height // stride), -(-new_width // stride))
    record = replace(
        RECORD,
        original_size=(height, width),
        resized_size=(new_height, new_width),
        scale=(new_height / height, new_width / width),
        padding=(0, 0),
        stride=(stride, stride),
        shape=(1, *grid),
    )
    pixels = torch.tensor([point[0] * height, point[1] * width], dtype=torch.float64)
    cells = record.to_feature(pixels)
    assert torch.allclose(record.to_image(cells), pixels, rtol=1e-12)
    assert (cells >= 0).all() and (cells <= torch.tensor(grid) + 1e-9).all()
    assert (record.centers()[0, 0] > 0).all()


def test_a_time_axis_is_one_axis_more() -> None:
    video = replace(RECORD, scale=(1.0, 2.0, 1.5), stride=(2, 8, 8), shape=(7, 4, 28, 12), resized_size=(8, 200, 90))
    assert video.to_feature([6, 16, 16]).tolist() == [3, 4, 3]
    assert video.centers().shape == (4, 28, 12, 3)
    assert torch.zeros(7, 4, 28, 12)[video.inside].shape == (7, 4, 25, 12)


def test_what_has_no_grid_has_no_coordinates() -> None:
    with pytest.raises(DataError, match=r"stage4\.pool has no grid"):
        replace(RECORD, stage="stage4.pool", stride=(), shape=(7,)).to_feature([0, 0])
    with pytest.raises(DataError, match="must have 2 coordinates"):
        RECORD.to_feature([1, 2, 3])
