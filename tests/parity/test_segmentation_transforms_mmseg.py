"""Our transforms of semantic segmentation against mmseg's own, step by step with the same factors."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from mmseg.datasets import transforms as theirs
from mmseg.utils.class_names import ade_palette
from torch import Tensor
from torchvision import tv_tensors
from torchvision.io import decode_image

from swin_dense.data.segmentation_transforms import (
    PhotoMetricDistortion,
    RandomClassCrop,
    RandomRatioResize,
    scale_contrast,
    scale_saturation,
    shift_brightness,
    turn_hue,
)
from swin_dense.label_maps.classes import read_palette
from swin_dense.records import Sample

DRAW = "mmseg.datasets.transforms.transforms.random"


@pytest.fixture(scope="module")
def image(shared_data: Path) -> Tensor:
    return decode_image(str(shared_data / "ade20k_tiny/images/training/ADE_train_00000036.jpg"))


def as_bgr(image: Tensor) -> np.ndarray:
    return np.ascontiguousarray(image.flip(0).permute(1, 2, 0).numpy())


def distances(ours: Tensor, bgr: np.ndarray) -> Tensor:
    return (ours.flip(0).permute(1, 2, 0).int() - torch.from_numpy(bgr).int()).abs().float()


@pytest.mark.parametrize("levels", [-32, -7.3, 0.6, 31.9])
def test_brightness_is_theirs_to_the_last_level(image, levels):
    wanted = theirs.PhotoMetricDistortion().convert(as_bgr(image), beta=levels)
    assert distances(shift_brightness(image, levels), wanted).max() == 0


@pytest.mark.parametrize("factor", [0.5, 0.83, 1.2, 1.5])
def test_contrast_is_theirs_to_the_last_level(image, factor):
    wanted = theirs.PhotoMetricDistortion().convert(as_bgr(image), alpha=factor)
    assert distances(scale_contrast(image, factor), wanted).max() == 0


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.3, 1.5])
def test_saturation_is_theirs_to_within_the_eight_bits_of_their_hsv(image, factor):
    with patch(DRAW) as draw:
        draw.randint.return_value, draw.uniform.return_value = 1, factor
        wanted = theirs.PhotoMetricDistortion().saturation(as_bgr(image))
    apart = distances(scale_saturation(image, factor), wanted)
    assert apart.mean() < 1 and apart.quantile(0.999) <= 4, (apart.mean(), apart.max())


@pytest.mark.parametrize("turn", [-18, -5, 0, 9, 17])
def test_hue_is_theirs_to_within_the_eight_bits_of_their_hsv(image, turn):
    with patch(DRAW) as draw:
        draw.randint.side_effect = [1, turn]
        wanted = theirs.PhotoMetricDistortion().hue(as_bgr(image))
    apart = distances(turn_hue(image, turn), wanted)
    assert apart.mean() < 1 and apart.quantile(0.999) <= 4, (apart.mean(), apart.max())


def test_distorted_images_have_the_statistics_of_theirs(image):
    """Mean and spread over many draws: every step has its probability, its range and its place in the order."""
    small = tv_tensors.Image(image[:, ::16, ::16].contiguous())
    torch.manual_seed(0)
    np.random.seed(0)
    ours, them = PhotoMetricDistortion(), theirs.PhotoMetricDistortion()
    sample = Sample(small, 0, "a", tuple(small.shape[1:]))
    found = torch.stack([ours(sample).image.as_subclass(Tensor) for _ in range(2500)]).float()
    wanted = torch.from_numpy(
        np.stack([them.transform({"img": as_bgr(small)})["img"][..., ::-1] for _ in range(2500)]).transpose(0, 3, 1, 2)
    ).float()
    for statistic, tolerance in ((lambda x: x.mean(0), 4), (lambda x: x.std(0), 4)):
        assert (statistic(found) - statistic(wanted)).abs().max() < tolerance
    assert (found.mean() - wanted.mean()).abs() < 1
    unchanged = [(x == small).all(dim=(1, 2, 3)).float().mean() for x in (found, wanted)]
    assert unchanged == pytest.approx([1 / 16, 1 / 16], abs=0.02)


def test_the_ratio_gives_their_sizes_and_labels(image):
    labels = np.random.default_rng(0).integers(0, 150, image.shape[1:]).astype(np.int32)
    sample = Sample(tv_tensors.Image(image), 0, "a", tuple(image.shape[1:]), label_map=tv_tensors.Mask(labels))
    from mmcv.transforms import RandomResize

    for ratio in (0.5, 0.77, 1.313, 2.0):
        them = RandomResize((2048, 512), (ratio, ratio), keep_ratio=True, resize_type="mmseg.Resize")
        with patch("numpy.random.random_sample", return_value=0.0):
            wanted = them({"img": as_bgr(image), "gt_seg_map": labels, "seg_fields": ["gt_seg_map"]})
        ours = RandomRatioResize((2048, 512), (ratio, ratio))(sample)
        assert ours.size == wanted["img"].shape[:2]
        assert (ours.label_map.numpy() == wanted["gt_seg_map"]).mean() > 0.999
        assert distances(ours.image.as_subclass(Tensor), wanted["img"]).max() <= 1


def test_windows_are_accepted_as_theirs_are():
    """The same windows, drawn by their dice: ours goes on exactly where theirs does, and takes the same one."""
    rng = np.random.default_rng(0)
    them = theirs.RandomCrop((8, 8), 0.75)
    for _ in range(300):
        labels = np.kron(rng.integers(-1, 3, (3, 3)), np.ones((8, 8))).astype(np.int32)
        windows = [(int(rng.integers(0, 17)), int(rng.integers(0, 17)), 8, 8) for _ in range(11)]
        draws = [place for window in windows for place in window[:2]]
        stored = np.where(labels < 0, 255, labels).astype(np.uint8)
        with patch("numpy.random.randint", side_effect=draws):
            top, _, left, _ = them.crop_bbox({"img": stored, "gt_seg_map": stored})
        sample = Sample(tv_tensors.Image(torch.zeros(3, 24, 24)), 0, "a", (24, 24), label_map=tv_tensors.Mask(labels))
        with patch.object(RandomClassCrop, "_draw", side_effect=windows):
            found = RandomClassCrop((8, 8), 0.75)(sample).label_map
        np.testing.assert_array_equal(found.numpy(), labels[top : top + 8, left : left + 8])


def test_the_official_palette_has_the_colours_that_the_field_uses(shared_data):
    assert read_palette(shared_data / "ade20k_tiny/color150.mat", 150).tolist() == ade_palette()
