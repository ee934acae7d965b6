"""Whatever is done to an image is done to its label map: both stay aligned to the pixel."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import Compose

from swin_dense.data.segmentation_transforms import (
    PhotoMetricDistortion,
    RandomClassCrop,
    RandomRatioResize,
    scale_saturation,
)
from swin_dense.data.transforms import ImageOnly, RandomHorizontalFlip, RandomShortSide, resize
from swin_dense.errors import ConfigError
from swin_dense.records import IGNORE_INDEX, Sample

BLOCK = 8


def as_grey(label_map: Tensor) -> Tensor:
    """The grey value that stands for each label of a painted sample."""
    return 40 + 50 * (label_map.as_subclass(Tensor) + 1)


@st.composite
def painted_samples(draw: st.DrawFn) -> Sample:
    """Blocks of labels -1..3, each painted in the grey of its label, in an image that no block divides evenly."""
    rows, columns = draw(st.integers(2, 6)), draw(st.integers(2, 6))
    labels = np.random.default_rng(draw(st.integers(0, 999))).integers(-1, 4, (rows, columns))
    height, width = rows * BLOCK - draw(st.integers(0, 5)), columns * BLOCK - draw(st.integers(0, 5))
    label_map = torch.from_numpy(np.kron(labels, np.ones((BLOCK, BLOCK))))[:height, :width].int()
    image = as_grey(label_map).to(torch.uint8).expand(3, -1, -1).contiguous()
    return Sample(tv_tensors.Image(image), 3, "3.png", (height, width), label_map=tv_tensors.Mask(label_map))


def edges(label_map: Tensor, radius: int) -> Tensor:
    """Pixels that have another label within a radius."""
    labels = torch.nn.functional.pad(label_map.as_subclass(Tensor).double()[None, None], [radius] * 4, mode="replicate")
    greatest, least = (sign * torch.nn.functional.max_pool2d(sign * labels, 2 * radius + 1, 1) for sign in (1, -1))
    return (greatest != least)[0, 0]


def distances(sample: Sample) -> Tensor:
    """Grey levels between the image and what its label map says that it shows; zero where both are aligned."""
    assert isinstance(sample.image, tv_tensors.Image) and isinstance(sample.label_map, tv_tensors.Mask)
    assert sample.image.dtype == torch.uint8 and sample.label_map.dtype == torch.int32
    assert sample.size == tuple(sample.label_map.shape)
    return (sample.image[0].int() - as_grey(sample.label_map)).abs()


@given(painted_samples(), st.integers(0, 2**30))
def test_crops_and_flips_are_exact(sample, seed):
    torch.manual_seed(seed)
    result = Compose([RandomClassCrop((17, 21)), RandomHorizontalFlip()])(sample)
    assert not distances(result).any()
    assert result.size == (min(sample.size[0], 17), min(sample.size[1], 21))
    assert (result.original_size, result.image_id) == (sample.size, 3)


@given(painted_samples(), st.integers(0, 2**30))
def test_a_resized_image_is_aligned_everywhere_but_where_two_labels_are_blended(sample, seed):
    torch.manual_seed(seed)
    result = RandomRatioResize((100, 30), (0.6, 2.0))(sample)
    zoom = max(new / old for new, old in zip(result.size, sample.size, strict=True))
    blended = edges(result.label_map, int(zoom / 2 + 1.5))  # half an old pixel to either side
    assert not blended.all()
    assert not distances(result)[~blended].any()


@given(painted_samples())
def test_whole_multiples_repeat_every_label(sample):
    height, width = sample.size
    larger = resize(sample, (3 * height, 2 * width)).label_map.as_subclass(Tensor)
    wanted = sample.label_map.as_subclass(Tensor).repeat_interleave(3, 0).repeat_interleave(2, 1)
    assert torch.equal(larger, wanted)


@given(painted_samples())
def test_a_flip_undoes_itself_and_moves_the_labels(sample):
    flipped = RandomHorizontalFlip(1)(sample)
    assert torch.equal(flipped.label_map, sample.label_map.flip(-1))
    assert torch.equal(RandomHorizontalFlip(1)(flipped).image, sample.image)


@given(painted_samples(), st.integers(0, 2**30))
def test_colours_change_and_labels_do_not(sample, seed):
    torch.manual_seed(seed)
    result = PhotoMetricDistortion()(sample)
    assert result.label_map is sample.label_map
    assert isinstance(result.image, tv_tensors.Image) and result.image.shape == sample.image.shape


def test_each_step_is_taken_half_of_the_time_and_contrast_comes_second_or_last(monkeypatch):
    calls: list[str] = []

    def record(name, image, by):
        calls.append(name)
        return image

    steps = ("shift_brightness", "scale_contrast", "scale_saturation", "turn_hue")
    for name in steps:
        monkeypatch.setattr(f"swin_dense.data.segmentation_transforms.{name}", partial(record, name))
    sample = Sample(tv_tensors.Image(torch.zeros(3, 2, 2, dtype=torch.uint8)), 0, "a", (2, 2))
    torch.manual_seed(0)
    orders = Counter()
    for _ in range(1600):
        calls.clear()
        PhotoMetricDistortion()(sample)
        orders[tuple(calls)] += 1
    assert all(730 < sum(count for order, count in orders.items() if name in order) < 870 for name in steps)
    brightness, contrast, saturation, hue = steps
    early = orders[brightness, contrast, saturation, hue] + orders[contrast, saturation, hue]
    late = orders[brightness, saturation, hue, contrast] + orders[saturation, hue, contrast]
    assert min(early, late) > 60
    assert len(orders) == 8 + 2 * 6 + 2  # without contrast; with it before or after others; with it beside none


def test_the_hue_turns_by_whole_steps_from_18_back_to_17_forth(monkeypatch):
    turns = Counter()
    monkeypatch.setattr(
        "swin_dense.data.segmentation_transforms.turn_hue", lambda image, steps: turns.update([steps]) or image
    )
    sample = Sample(tv_tensors.Image(torch.zeros(3, 2, 2, dtype=torch.uint8)), 0, "a", (2, 2))
    torch.manual_seed(0)
    for _ in range(3600):
        PhotoMetricDistortion()(sample)
    assert sorted(turns) == list(range(-18, 18))
    assert max(turns.values()) < 2 * min(turns.values()) + 10  # about 50 of each


def test_in_evaluation_only_the_image_is_resized():
    label_map = tv_tensors.Mask(torch.zeros(40, 60, dtype=torch.int32))
    sample = Sample(tv_tensors.Image(torch.zeros(3, 40, 60)), 0, "a", (40, 60), label_map=label_map)
    result = ImageOnly(RandomShortSide((20,), 99))(sample)
    assert result.size == (20, 30) and result.label_map is label_map


def test_the_ratio_is_uniform_and_the_longer_side_is_capped():
    sample = Sample(tv_tensors.Image(torch.zeros(3, 10, 20)), 0, "a", (10, 20))
    torch.manual_seed(0)
    heights = np.array([RandomRatioResize((4000, 100), (0.5, 2.0))(sample).size[0] for _ in range(800)])
    assert heights.min() >= 50 and heights.max() <= 200
    assert np.histogram(heights, 3, (50, 200))[0].min() > 220
    assert RandomRatioResize((40, 100), (1.0, 1.0))(sample).size == (40, 80)
    long_one = replace(sample, image=tv_tensors.Image(torch.zeros(3, 10, 100)))
    assert RandomRatioResize((400, 100), (1.0, 1.0))(long_one).size == (40, 400)


def checkered(left: int, height: int = 20, width: int = 60) -> Sample:
    """Label 0 in the first columns, 1 behind them."""
    label_map = torch.ones(height, width, dtype=torch.int32)
    label_map[:, :left] = 0
    return Sample(
        tv_tensors.Image(torch.zeros(3, height, width)), 0, "a", (height, width), label_map=tv_tensors.Mask(label_map)
    )


def test_crops_avoid_windows_of_one_class():
    sample = checkered(30)
    torch.manual_seed(0)
    shares = [RandomClassCrop((20, 20), 0.75)(sample).label_map.double().mean() for _ in range(200)]
    mixed = np.mean([0.25 < share < 0.75 for share in shares])
    # 9 of 41 windows are mixed, and an image gets eleven: 1 - (32 / 41)^11 = 0.934
    assert 0.88 < mixed < 0.98


def test_ignored_pixels_do_not_count_when_a_class_is_too_great_a_part():
    """Among 0 and 1 no window is mixed; where all but a narrow band is ignored, those with half of each are."""
    sample = checkered(30)
    sample.label_map[:, :28] = IGNORE_INDEX
    sample.label_map[:, 32:] = IGNORE_INDEX
    torch.manual_seed(0)
    windows = [RandomClassCrop((20, 20), 0.75)(sample).label_map for _ in range(100)]
    both = np.mean([bool((window == 0).sum() == (window == 1).sum() > 0) for window in windows])
    # 17 of 41 windows hold the whole band, 2 hold 2 + 1 columns of it (2/3): 1 - (22 / 41)^11 = 0.999
    assert both > 0.8


def test_an_image_of_one_class_or_of_none_is_cropped_all_the_same():
    for label in (0, IGNORE_INDEX):
        sample = checkered(0)
        sample.label_map.fill_(label)
        assert RandomClassCrop((8, 90))(sample).size == (8, 60)


def test_a_ratio_of_one_takes_the_first_window():
    torch.manual_seed(0)
    shares = [RandomClassCrop((20, 20), 1.0)(checkered(30)).label_map.double().mean() for _ in range(200)]
    assert np.mean([0 < share < 1 for share in shares]) < 0.6


def test_saturation_is_that_of_hsv():
    import colorsys

    colours = torch.randint(256, (3, 1, 200), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    colours[:, :, :3] = torch.tensor([[0, 255, 90], [0, 255, 90], [0, 0, 90]], dtype=torch.uint8)[:, None]
    for factor in (0.0, 0.5, 1.4):
        found = scale_saturation(colours, factor)[:, 0].T.tolist()
        for (red, green, blue), ours in zip(colours[:, 0].T.tolist(), found, strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
            wanted = colorsys.hsv_to_rgb(hue, min(1, saturation * factor), value)
            assert ours == pytest.approx([255 * channel for channel in wanted], abs=0.51)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomRatioResize((2048, 512), (0.0, 1.0)),
        lambda: RandomRatioResize((2048, 1), (0.5, 1.0)),
        lambda: RandomRatioResize((2048, 512), (2.0, 1.0)),
        lambda: RandomClassCrop((0, 5)),
        lambda: RandomClassCrop((5, 5), 75),
        lambda: PhotoMetricDistortion(contrast_range=(1.5, 0.5)),
        lambda: PhotoMetricDistortion(hue_delta=180),
    ],
)
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(ConfigError):
        make()
