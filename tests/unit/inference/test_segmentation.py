"""Label maps and probabilities of a small, crooked stand-in for a segmenter, judged by the plain way in float64."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from swin_dense.errors import ConfigError
from swin_dense.inference.segmentation import SegmentationInference, resize_images
from swin_dense.records import Batch, Segmentation, Size

WHOLE: dict[str, Any] = {}
SLIDE: dict[str, Any] = {"crop_size": (16, 24), "stride": (11, 16)}
OFFICIAL_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
MANY_VIEWS: dict[str, Any] = {"scales": OFFICIAL_SCALES, "flip": True}
OPTIONS = {
    "whole": WHOLE,
    "slide": SLIDE,
    "dense slide": {"crop_size": (16, 16), "stride": (3, 5)},
    "flip": {"flip": True},
    "scales and flip": MANY_VIEWS,
    "slide, scales and flip": SLIDE | {"scales": (0.6, 1.3), "flip": True},
}
SIZES = [(37, 53), (1, 1), (1, 40), (64, 9)]


class Convolution:
    """A segmenter that sees neighbours, edges and the difference between left and right; records what it is shown."""

    def __init__(self, classes: int = 5, dtype: torch.dtype = torch.float64, align_corners: bool = False) -> None:
        generator = torch.Generator().manual_seed(1)
        self.weight = (torch.randn(classes, 3, 7, 7, generator=generator) / 50).to(dtype)
        self.align_corners = align_corners
        self.shown: list[Size] = []

    def logits(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        self.shown.append((images.shape[2], images.shape[3]))
        return functional.conv2d(images.to(self.weight.dtype) - 100, self.weight, stride=4, padding=3)


def two_thirds(size: Size, ratio: float) -> Size:
    return max(1, round(size[0] * ratio * 0.7)), max(1, round(size[1] * ratio * 0.65))


def unchanged(size: Size, ratio: float) -> Size:
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def picture(size: Size, seed: int = 0) -> Tensor:
    return torch.randint(256, (3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def batch_of(*pictures: Tensor, padding: int = 0) -> Batch:
    sizes = tuple((one.shape[1], one.shape[2]) for one in pictures)
    height, width = (max(lengths) + padding for lengths in zip(*sizes, strict=True))
    images = torch.full((len(pictures), 3, height, width), 77, dtype=torch.uint8)
    for image, one, size in zip(images, pictures, sizes, strict=True):
        image[:, : size[0], : size[1]] = one
    names = tuple(f"{i}.png" for i in range(len(pictures)))
    return Batch(images, sizes, sizes, image_ids=tuple(range(len(pictures))), file_names=names)


def segment(model: Any, image: Tensor, test_size: Callable[[Size, float], Size], **options: Any) -> Segmentation:
    inference = SegmentationInference(test_size, probabilities=torch.float32, **options)
    return inference.predict(model, batch_of(image))[0]


def plain_scores(
    model: Any,
    image: Tensor,
    test_size: Callable[[Size, float], Size],
    crop_size: Size | None = None,
    stride: Size | None = None,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
) -> Tensor:
    """(V, K, H, W): the logits of every view, each step at full size, with a map of how often a pixel was seen."""
    size = (image.shape[1], image.shape[2])
    views = []
    for ratio in scales:
        for mirrored in (False, True) if flip else (False,):
            view = resize_images(image[None], test_size(size, ratio))
            view = view.flip(-1) if mirrored else view
            height, width = view.shape[2:]
            crop_height, crop_width = crop_size or (height, width)
            total: Any = 0
            count = torch.zeros(height, width, dtype=torch.float64)
            bottoms = [crop_height]
            while stride and bottoms[-1] < height:
                bottoms.append(bottoms[-1] + stride[0])
            rights = [crop_width]
            while stride and rights[-1] < width:
                rights.append(rights[-1] + stride[1])
            for bottom in (min(one, height) for one in bottoms):
                for right in (min(one, width) for one in rights):
                    rows, columns = (
                        slice(max(bottom - crop_height, 0), bottom),
                        slice(max(right - crop_width, 0), right),
                    )
                    canvas = torch.zeros(1, len(model.weight), height, width, dtype=torch.float64)
                    crop = view[:, :, rows, columns]
                    canvas[:, :, rows, columns] = enlarge(model.logits(crop), crop.shape[2:], model.align_corners)
                    total = total + canvas
                    count[rows, columns] += 1
            logits = total / count
            logits = logits.flip(-1) if mirrored else logits
            views.append(enlarge(logits, size, model.align_corners)[0])
    return torch.stack(views)


def enlarge(logits: Tensor, size: Any, align_corners: bool) -> Tensor:
    return functional.interpolate(logits.double(), size=tuple(size), mode="bilinear", align_corners=align_corners)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("test_size", [two_thirds, unchanged])
def test_classes_and_probabilities_are_those_of_the_plain_way(
    size: Size, align_corners: bool, options: dict[str, Any], test_size: Callable[[Size, float], Size]
) -> None:
    model = Convolution(align_corners=align_corners)
    image = picture(size)
    found = segment(model, image, test_size, **options, band_pixels=200)
    views = plain_scores(model, image, test_size, **options)
    probabilities = views.softmax(dim=1).mean(dim=0)
    assert found.probabilities is not None
    assert found.probabilities.dtype == torch.float32 and found.label_map.dtype == torch.int32
    torch.testing.assert_close(found.probabilities.double(), probabilities, rtol=0, atol=1e-7)
    assert torch.equal(found.label_map.long(), (views[0] if len(views) == 1 else probabilities).argmax(dim=0))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_float32_logits_give_probabilities_that_are_off_by_rounding_alone(options: dict[str, Any]) -> None:
    image = picture((61, 83))
    exact = plain_scores(Convolution(dtype=torch.float64), image, two_thirds, **options).softmax(dim=1).mean(dim=0)
    found = segment(Convolution(dtype=torch.float32), image, two_thirds, **options)
    assert found.probabilities is not None
    torch.testing.assert_close(found.probabilities.double(), exact, rtol=0, atol=5e-6)


@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_the_height_of_a_band_changes_no_bit(options: dict[str, Any], align_corners: bool) -> None:
    model, image = Convolution(dtype=torch.float32, align_corners=align_corners), picture((37, 53))
    at_once = segment(model, image, two_thirds, **options, band_pixels=10**9)
    for band_pixels in (1, 53 * 2, 53 * 16 + 52):
        in_bands = segment(model, image, two_thirds, **options, band_pixels=band_pixels)
        assert torch.equal(in_bands.label_map, at_once.label_map)
        assert in_bands.probabilities is not None and at_once.probabilities is not None
        assert torch.equal(in_bands.probabilities, at_once.probabilities)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_an_image_does_not_depend_on_its_batch(options: dict[str, Any]) -> None:
    model = Convolution()
    pictures = [picture((37, 53), 1), picture((20, 60), 2), picture((37, 53), 3), picture((8, 8), 4)]
    inference = SegmentationInference(two_thirds, probabilities=torch.float32, **options)
    together = inference.predict(model, batch_of(*pictures, padding=9))
    assert len(together) == len(pictures)
    for one, found in zip(pictures, together, strict=True):
        (alone,) = inference.predict(model, batch_of(one))
        assert torch.equal(found.label_map, alone.label_map)
        torch.testing.assert_close(found.probabilities, alone.probabilities, rtol=0, atol=1e-7)


def test_images_of_one_size_run_together_and_padding_is_never_shown() -> None:
    model = Convolution()
    pictures = [picture((37, 53), 1), picture((20, 60), 2), picture((37, 53), 3)]
    SegmentationInference(unchanged).predict(model, batch_of(*pictures, padding=9))
    assert sorted(model.shown) == [(20, 60), (37, 53)]


def test_windows_have_one_size_and_the_last_ones_are_moved_back_into_the_image() -> None:
    model = Convolution()
    SegmentationInference(unchanged, **SLIDE).predict(model, batch_of(picture((37, 53))))
    assert model.shown == [(16, 24)] * (3 * 3)


def test_an_image_smaller_than_the_window_is_seen_whole() -> None:
    image, model = picture((12, 20)), Convolution()
    sliding = segment(model, image, unchanged, **SLIDE)
    assert model.shown == [(12, 20)]
    assert torch.equal(sliding.label_map, segment(model, image, unchanged).label_map)


def test_test_time_augmentation_shows_every_scale_of_the_image_on_disk() -> None:
    model = Convolution()
    SegmentationInference(unchanged, **MANY_VIEWS).predict(model, batch_of(picture((40, 80))))
    expected = [unchanged((40, 80), ratio) for ratio in OFFICIAL_SCALES for _ in range(2)]
    assert model.shown == expected


def test_one_class_is_everywhere() -> None:
    found = segment(Convolution(classes=1), picture((10, 13)), two_thirds, **MANY_VIEWS)
    assert torch.equal(found.label_map, torch.zeros(10, 13, dtype=torch.int32))
    assert found.probabilities is not None and torch.equal(found.probabilities, torch.ones(1, 10, 13))


@pytest.mark.parametrize("options", [{}, MANY_VIEWS], ids=["one view", "many views"])
def test_half_precision_rounds_the_probabilities_once_and_leaves_the_classes_alone(options: dict[str, Any]) -> None:
    image = picture((37, 53))
    exact = segment(Convolution(), image, two_thirds, **options)
    inference = SegmentationInference(two_thirds, probabilities=torch.float16, **options)
    found = inference.predict(Convolution(), batch_of(image))[0]
    assert exact.probabilities is not None and found.probabilities is not None
    assert torch.equal(found.probabilities, exact.probabilities.half())
    assert torch.equal(found.label_map, exact.label_map)


def test_probabilities_are_made_only_when_asked_for() -> None:
    assert SegmentationInference(unchanged).predict(Convolution(), batch_of(picture((9, 9))))[0].probabilities is None


def test_autocast_leaves_the_resizing_in_float32() -> None:
    model, image = Convolution(dtype=torch.float32), picture((37, 53))

    class Float32(Convolution):
        def logits(self, images: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return super().logits(images)

    expected = segment(model, image, two_thirds, **MANY_VIEWS)
    with torch.autocast("cpu", torch.bfloat16):
        found = segment(Float32(dtype=torch.float32), image, two_thirds, **MANY_VIEWS)
    assert found.probabilities is not None and expected.probabilities is not None
    assert torch.equal(found.probabilities, expected.probabilities)


@pytest.mark.parametrize("size", [(19, 30), (80, 31)], ids=str)
def test_resized_images_are_rounded_to_the_nearest_grey_level(size: Size) -> None:
    image = picture((37, 53))[None]
    exact = functional.interpolate(image.double(), size=size, mode="bilinear")
    assert (resize_images(image, size).double() - exact).abs().max() < 0.5 + 1e-3


class LargestTensor(TorchDispatchMode):
    """Records the most numbers that any tensor of floats holds in its own storage."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point():
            self.numbers = max(self.numbers, result.untyped_storage().nbytes() // result.element_size())
        return result


@pytest.mark.parametrize("options", [WHOLE, {"flip": True}, SLIDE], ids=["whole", "flip", "slide"])
def test_logits_never_exist_at_full_size(options: dict[str, Any]) -> None:
    height, width, classes, band_pixels = 256, 320, 60, 2048
    inference = SegmentationInference(unchanged, **options, band_pixels=band_pixels)
    with LargestTensor() as largest:
        inference.predict(Convolution(classes, torch.float32), batch_of(picture((height, width))))
    at_the_head = classes * height * width // 16
    assert classes * band_pixels / 2 < largest.numbers <= max(classes * band_pixels, at_the_head)


def test_a_sliding_window_keeps_the_logits_of_two_rows_of_crops() -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    class Counting(Convolution):
        def logits(self, images: Tensor) -> Tensor:
            nonlocal most
            found = super().logits(images)
            alive.append(weakref.ref(found))
            most = max(most, sum(one() is not None for one in alive))
            return found

    inference = SegmentationInference(unchanged, **SLIDE, band_pixels=4 * 40)
    inference.predict(Counting(), batch_of(picture((159, 40))))
    assert len(alive) == 14 * 2
    assert most <= 2 * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_size": (8, 8)}, "both crop_size and stride"),
        ({"stride": (8, 8)}, "both crop_size and stride"),
        ({"crop_size": (8, 8), "stride": (8, 9)}, r"stride \(8, 9\) is beyond .*crop_size \(8, 8\)"),
        ({"crop_size": (0, 8), "stride": (1, 1)}, "positive"),
        ({"crop_size": (8, 8), "stride": (0, 1)}, "positive"),
        ({"scales": ()}, "at least one"),
        ({"scales": (1.0, 0.0)}, "positive ratios"),
        ({"scales": (float("nan"),)}, "positive ratios"),
        ({"scales": (float("inf"),)}, "positive ratios"),
        ({"band_pixels": 0}, "band_pixels"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmentationInference(unchanged, **options)
