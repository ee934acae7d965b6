import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle_codec

from swin_dense import rle
from swin_dense.rle import check_rles, compress_runs


def encoded(mask: np.ndarray) -> bytes:
    return rle_codec.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


def random_masks(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = random.integers(1, 90, (count, 2))
    return [random.random(shape) < random.choice([0.0, 0.02, 0.5, 1.0]) for shape in shapes]


def pixels_of(masks: list[np.ndarray]) -> np.ndarray:
    return np.array([mask.size for mask in masks])


def test_areas_of_real_masks_are_counted_exactly():
    masks = random_masks(300)
    areas, problems = check_rles([encoded(mask) for mask in masks], pixels_of(masks))
    assert problems == {}
    assert areas.tolist() == [mask.sum() for mask in masks]


def test_large_run_lengths_need_several_groups():
    mask = np.zeros((4000, 3000), dtype=bool)
    mask[17:3900, 5:2999] = True
    areas, problems = check_rles([encoded(mask).decode()], np.array([mask.size]))
    assert (areas.tolist(), problems) == ([mask.sum()], {})


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9), max_size=5))
def test_run_lengths_are_written_as_coco_writes_them(masks):
    runs, lengths = np.array([run for mask in masks for run in mask], dtype=np.int64), [len(mask) for mask in masks]
    written = compress_runs(runs, np.array(lengths, dtype=np.int64))
    assert written == [rle_codec.frPyObjects({"size": [1, 1], "counts": mask}, 1, 1)["counts"] for mask in masks]


def test_no_masks_at_all():
    assert compress_runs(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)) == []
    areas, problems = check_rles([], np.zeros(0, dtype=np.int64))
    assert areas.shape == (0,)
    assert problems == {}


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ("", "not a compressed RLE"),
        (None, "not a compressed RLE"),
        ([4, 2, 3], "not a compressed RLE"),
        ("é", "not a compressed RLE"),
        ("09\n", "characters that no compressed RLE has"),
        ("0p", "characters that no compressed RLE has"),
        ("0P", "break off"),
        ("0" + "P" * 9 + "1", "negative or too large"),
        ("0o1O", "negative or too large"),
        ("8", "cover 8 pixels, the image has 9"),
        ("9" * 5, "cover 63 pixels, the image has 9"),
    ],
)
def test_a_malformed_mask_is_named_and_leaves_its_neighbours_alone(counts, reason):
    good = np.eye(3, dtype=bool)
    areas, problems = check_rles([encoded(good), counts, encoded(~good)], np.array([9, 9, 9]))
    assert list(problems) == [1]
    assert reason in problems[1]
    assert areas.tolist() == [3, 0, 6]


def test_many_masks_are_checked_in_pieces(monkeypatch):
    monkeypatch.setattr(rle, "_MASKS_AT_ONCE", 3)
    masks = random_masks(10)
    counts = [encoded(mask) for mask in masks]
    counts[7] = b"1P"
    areas, problems = check_rles(counts, pixels_of(masks))
    assert list(problems) == [7]
    assert [area for index, area in enumerate(areas) if index != 7] == [m.sum() for i, m in enumerate(masks) if i != 7]


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=1, max_size=6).map(lambda raw: bytes(48 + byte % 64 for byte in raw)), st.integers(1, 40))
def test_what_is_accepted_is_safe_to_decode(counts, height):
    areas, problems = check_rles([counts], np.array([height]))
    if not problems:
        decoded = rle_codec.decode({"size": [height, 1], "counts": counts})
        assert decoded.sum() == areas[0]
