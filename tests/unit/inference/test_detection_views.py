"""Where what is found in a part of an image lies in the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as rle_codec

from swin_dense.inference.detection import View
from swin_dense.records import Rle, Size

VIEWS = [
    View(0, 0, (9, 13), (9, 13)),
    View(0, 0, (9, 13), (18, 26), mirrored=True),
    View(0, 0, (4, 6), (4, 6)),
    View(5, 7, (4, 6), (8, 12)),
    View(2, 3, (4, 6), (4, 6), mirrored=True),
    View(5, 0, (4, 13), (4, 13)),
    View(0, 12, (9, 1), (9, 1)),
]
IMAGE: Size = (9, 13)


def encoded(mask: np.ndarray) -> Rle:
    return rle_codec.encode(np.asfortranarray(mask.astype(np.uint8)))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_a_mask_is_that_of_the_whole_image_to_the_byte(view: View, share: float) -> None:
    shown = np.random.default_rng(0).random(view.region) < share
    expected = np.zeros(IMAGE, dtype=bool)
    rows, columns = (
        slice(start, start + length) for start, length in zip((view.top, view.left), view.region, strict=True)
    )
    expected[rows, columns] = shown[:, ::-1] if view.mirrored else shown
    assert view.mask_in_image(encoded(shown), IMAGE) == encoded(expected)


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_a_box_lies_where_its_pixels_lie(view: View) -> None:
    height, width = view.region
    box = torch.tensor([[0.0, height / 2, width / 4, float(height)]])
    ((x1, y1, x2, y2),) = view.boxes_in_image(box).tolist()
    assert (y1, y2) == (view.top + height / 2, view.top + height)
    expected = (3 * width / 4, width) if view.mirrored else (0, width / 4)
    assert (x1, x2) == (view.left + expected[0], view.left + expected[1])


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_region_is_shown_as_it_is_where_the_size_stays(mirrored: bool) -> None:
    image = torch.arange(3 * 9 * 13, dtype=torch.uint8).view(3, 9, 13)
    shown = View(2, 3, (4, 6), (4, 6), mirrored).show(image)
    expected = image[:, 2:6, 3:9]
    assert torch.equal(shown, expected.flip(-1) if mirrored else expected)
