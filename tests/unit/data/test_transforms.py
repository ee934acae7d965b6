"""Transforms keep image, boxes, masks and labels of a sample in step, and equal the published pipeline's arithmetic."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.io import decode_image
from torchvision.transforms.v2 import Compose

from swin_dense.data.transforms import (
    ImageOnly,
    RandomCrop,
    RandomHorizontalFlip,
    RandomShortSide,
    Transform,
    crop,
    resize,
    short_side_or_crop,
)
from swin_dense.errors import ConfigError, DataError
from swin_dense.records import Instances, Sample, rescaled_size

Box = tuple[int, int, int, int]


def painted_sample(height: int, width: int, boxes: list[Box]) -> Sample:
    """Rectangles on black; object i has label i and the grey value 40 * (i + 1), so that a picture tells its labels."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        image[:, y1:y2, x1:x2] = 40 * (i + 1)
        masks[i, y1:y2, x1:x2] = True
    instances = Instances(
        boxes=tv_tensors.BoundingBoxes(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=(height, width)
        ),
        masks=tv_tensors.Mask(masks),
        labels=torch.arange(len(boxes)),
        crowd=torch.arange(len(boxes)) % 2 == 1,
    )
    return Sample(tv_tensors.Image(image), 7, "7.png", (height, width), instances)


@st.composite
def painted_samples(draw: st.DrawFn) -> Sample:
    """Up to four rectangles that do not touch, one in each quarter of an image of 24..90 pixels a side."""
    height, width = draw(st.integers(24, 90)), draw(st.integers(24, 90))
    boxes = []
    for quarter in draw(st.permutations(range(4)))[: draw(st.integers(0, 4))]:
        top, left = quarter // 2 * (height // 2), quarter % 2 * (width // 2)
        x1, y1 = left + draw(st.integers(1, width // 4)), top + draw(st.integers(1, height // 4))
        x2, y2 = draw(st.integers(x1 + 2, left + width // 2 - 1)), draw(st.integers(y1 + 2, top + height // 2 - 1))
        boxes.append((x1, y1, x2, y2))
    return painted_sample(height, width, boxes)


def assert_consistent(sample: Sample, tolerance: float, thinnest: int) -> None:
    """Boxes enclose their masks, lie in the image, and the picture under a mask shows the object of its label."""
    instances = sample.instances
    assert instances is not None
    assert len(instances) == len(instances.boxes) == len(instances.masks) == len(instances.crowd)
    assert instances.boxes.canvas_size == sample.size == tuple(instances.masks.shape[-2:])
    assert isinstance(instances.boxes, tv_tensors.BoundingBoxes) and isinstance(instances.masks, tv_tensors.Mask)
    assert instances.boxes.dtype == torch.float32 and instances.masks.dtype == torch.bool
    assert sample.image.dtype == torch.uint8 and isinstance(sample.image, tv_tensors.Image)
    assert torch.equal(instances.crowd, instances.labels % 2 == 1)
    height, width = sample.size
    limits = torch.tensor([width, height, width, height]) + 1e-3
    assert (instances.boxes >= 0).all() and (instances.boxes <= limits).all()
    for box, mask, label in zip(instances.boxes, instances.masks, instances.labels, strict=True):
        rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
        if min(len(rows), len(columns)) < thinnest:
            continue  # so thin that bilinear interpolation mixes its every pixel with the neighbours
        enclosing = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert (box - enclosing).abs().max() <= tolerance
        middle = sample.image[0, rows.float().mean().int(), columns.float().mean().int()]
        assert abs(int(middle) - 40 * (int(label) + 1)) < 20


TRANSFORMS: dict[str, Transform] = {
    "test": RandomShortSide((40,), 70),
    "multi-scale": RandomShortSide((20, 40, 60), 80),
    "crop": RandomCrop(15, 40),
    "flip": RandomHorizontalFlip(),
    "training": Compose([short_side_or_crop((60, 80), 120, (60, 80), (30, 50)), RandomHorizontalFlip()]),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@given(sample=painted_samples(), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_image_boxes_masks_and_labels_stay_in_step(name: str, sample: Sample, seed: int) -> None:
    torch.manual_seed(seed)
    result = TRANSFORMS[name](sample)
    tolerance, thinnest = {"crop": (0.0, 1), "flip": (0.0, 1), "training": (1 + 80 / 30, 8)}.get(name, (1.0, 3))
    assert_consistent(result, tolerance, thinnest)
    assert (result.image_id, result.file_name, result.original_size) == (7, "7.png", sample.original_size)


@given(sample=painted_samples())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_two_flips_are_none(sample: Sample) -> None:
    once, twice = RandomHorizontalFlip(1)(sample), RandomHorizontalFlip(1)(RandomHorizontalFlip(1)(sample))
    assert torch.equal(twice.image, sample.image)
    assert torch.equal(twice.instances.masks, sample.instances.masks)
    assert torch.equal(twice.instances.boxes, sample.instances.boxes)
    assert torch.equal(once.image, sample.image.flip(-1))


def test_flip_takes_box_edge_x_to_width_minus_x() -> None:
    flipped = RandomHorizontalFlip(1)(painted_sample(10, 30, [(2, 1, 7, 9)]))
    assert flipped.instances.boxes.tolist() == [[23, 1, 28, 9]]


@pytest.mark.parametrize("size", [(480, 640), (427, 640), (640, 425), (100, 1000), (1000, 99), (1, 3000), (333, 333)])
@pytest.mark.parametrize("limits", [(800, 1333), (480, 1333), (128, 128)])
def test_sizes_equal_mmdetection(size: tuple[int, int], limits: tuple[int, int]) -> None:
    height, width = size
    expected = mmcv.rescale_size((width, height), (limits[1], limits[0]))[::-1]
    assert rescaled_size(size, *limits) == tuple(max(1, side) for side in expected)


def test_pixels_are_within_one_grey_level_of_the_published_pipeline(shared_data: Path) -> None:
    files = sorted((shared_data / "coco2017_tiny" / "val2017").glob("*.jpg"))[:6]
    for file in files:
        image = decode_image(str(file), mode="RGB")
        sample = Sample(tv_tensors.Image(image), 1, file.name, tuple(image.shape[1:]))
        for short_side, long_side in ((800, 1333), (480, 1333), (200, 400)):
            ours = RandomShortSide((short_side,), long_side)(sample).image.permute(1, 2, 0).numpy().astype(int)
            theirs = mmcv.imrescale(image.permute(1, 2, 0).numpy(), (long_side, short_side)).astype(int)
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("size", [(37, 91), (16, 30), (64, 48)])
def test_masks_take_the_neighbours_that_opencv_takes(size: tuple[int, int]) -> None:
    sample = painted_sample(32, 48, [(3, 2, 30, 17), (20, 5, 48, 32)])
    resized = resize(sample, size).instances.masks.numpy()
    for ours, mask in zip(resized, sample.instances.masks.numpy(), strict=True):
        theirs = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
        assert np.array_equal(ours, theirs.astype(bool))


def test_resize_scales_each_axis_of_the_boxes_by_its_own_ratio() -> None:
    resized = resize(painted_sample(20, 40, [(4, 5, 20, 10)]), (30, 100))
    assert resized.instances.boxes.tolist() == [[10, 7.5, 50, 15]]


def test_crop_drops_what_it_cannot_see_with_box_mask_label_and_crowd_flag() -> None:
    sample = painted_sample(40, 40, [(0, 0, 8, 8), (12, 12, 20, 38), (30, 30, 40, 40)])
    cropped = crop(sample, 10, 10, 20, 20)
    assert cropped.instances.labels.tolist() == [1]
    assert cropped.instances.crowd.tolist() == [True]
    assert cropped.instances.boxes.tolist() == [[2, 2, 10, 20]]
    assert torch.equal(cropped.instances.masks, sample.instances.masks[1:2, 10:30, 10:30])
    assert torch.equal(cropped.image, sample.image[:, 10:30, 10:30])


def test_crop_drops_an_object_of_which_only_the_empty_corner_of_its_box_is_left() -> None:
    sample = painted_sample(40, 40, [(0, 0, 40, 40)])
    sample.instances.masks[0, 20:, 20:] = False
    assert len(crop(sample, 20, 20, 20, 20).instances) == 0
    assert len(crop(sample, 19, 19, 20, 20).instances) == 1


def test_a_crop_without_objects_goes_on_through_the_pipeline() -> None:
    empty = crop(painted_sample(40, 40, [(0, 0, 5, 5)]), 20, 20, 16, 20)
    result = RandomHorizontalFlip(1)(resize(empty, (32, 40)))
    assert result.instances.boxes.shape == (0, 4) and result.instances.masks.shape == (0, 32, 40)
    assert result.size == (32, 40)


def test_images_to_predict_on_need_no_instances() -> None:
    sample = painted_sample(40, 60, [(0, 0, 5, 5)])
    torch.manual_seed(0)
    for transform in TRANSFORMS.values():
        assert ImageOnly(transform)(sample).instances is None


def test_random_short_side_draws_every_candidate_equally_and_respects_the_cap() -> None:
    sample = painted_sample(20, 40, [])
    torch.manual_seed(0)
    sizes = Counter(RandomShortSide((10, 20, 30), 50)(sample).size for _ in range(600))
    assert set(sizes) == {(10, 20), (20, 40), (25, 50)}
    assert min(sizes.values()) > 150


def test_crop_sizes_are_uniform_over_the_range_and_never_exceed_the_image() -> None:
    torch.manual_seed(0)
    sizes = [RandomCrop(8, 12)(painted_sample(10, 30, [])).size for _ in range(500)]
    heights, widths = (Counter(side) for side in zip(*sizes, strict=True))
    assert set(heights) == {8, 9, 10} and set(widths) == {8, 9, 10, 11, 12}
    assert min(heights.values()) > 120 and min(widths.values()) > 60
    assert RandomCrop(8, 12)(painted_sample(5, 6, [])).size == (5, 6)


def test_crop_places_reach_every_edge() -> None:
    image = torch.arange(40, dtype=torch.uint8).repeat(3, 12, 1)
    sample = Sample(tv_tensors.Image(image), 1, "1.png", (12, 40))
    torch.manual_seed(0)
    lefts = Counter(int(RandomCrop(38, 38)(sample).image[0, 0, 0]) for _ in range(300))
    assert set(lefts) == {0, 1, 2} and min(lefts.values()) > 60


def test_the_two_ways_of_the_official_policy_have_equal_chance() -> None:
    sample = painted_sample(20, 40, [])
    policy = short_side_or_crop((20,), 100, (20,), (8, 19))
    torch.manual_seed(0)
    uncropped = sum(policy(sample).size == (20, 40) for _ in range(1000))
    assert abs(uncropped - 500) < 64  # four standard deviations


def test_randomness_comes_from_torch_alone() -> None:
    sample, transform = painted_sample(50, 60, [(3, 4, 40, 45)]), TRANSFORMS["training"]
    random_state, numpy_state = random.getstate(), np.random.get_state()[1].copy()
    results = []
    for other_seed in (1, 2):
        random.seed(other_seed), np.random.seed(other_seed), torch.manual_seed(5)
        results.append([transform(sample).image for _ in range(5)])
        assert random.getstate() == random.Random(other_seed).getstate()
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert len({tuple(image.shape) for image in results[0]}) > 1
    random.setstate(random_state), np.random.seed(int(numpy_state[0]))


@pytest.mark.parametrize(
    "build",
    [
        lambda: RandomShortSide((0,), 10),
        lambda: RandomShortSide((800,), 600),
        lambda: RandomShortSide((), 10),
        lambda: RandomCrop(0, 5),
        lambda: RandomCrop(6, 5),
        lambda: RandomHorizontalFlip(1.5),
        lambda: short_side_or_crop((480,), 1333, (), (384, 600)),
    ],
)
def test_impossible_settings_are_refused(build: object) -> None:
    with pytest.raises(ConfigError, match=r"resize|crop|flip"):
        build()


def test_an_image_that_would_grow_beyond_bounds_is_refused() -> None:
    thin = Sample(tv_tensors.Image(torch.zeros(3, 1, 30_000, dtype=torch.uint8)), 1, "thin.png", (1, 30_000))
    with pytest.raises(DataError, match=r"thin\.png: 30000 x 1 pixels would be enlarged to 24000000 x 800"):
        resize(thin, (800, 24_000_000))
    assert resize(thin, (2, 60_000)).size == (2, 60_000)
