"""RoIAlign and RoIPool against loops written from their definitions."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from mmcv.ops import DeformRoIPool, RoIAlign, RoIPool, deform_roi_pool, roi_align, roi_pool

from swin_dense.errors import UnsupportedOpError
from swin_dense.ops import torchvision_kernels
from swin_dense.ops.roi import add_gradient_in_order

SCALE = 0.5
# Image index, x1, y1, x2, y2 in pixels of an image of 22 x 18, whose map is 11 x 9.
ROIS = [
    [0.0, 2.3, 1.7, 13.1, 12.9],
    [1.0, 0.0, 0.0, 21.9, 17.9],
    [1.0, 5.2, 3.1, 5.9, 3.4],
    [0.0, -4.0, -3.0, 30.0, 25.5],
    [1.0, 8.0, 8.0, 8.0, 8.0],
]


def feature_map(device: str = "cpu") -> torch.Tensor:
    return torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0)).double().to(device)


def bilinear(image: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """Value at (y, x) of a (C, H, W) map: border pixels reach one pixel outwards, beyond that is 0."""
    height, width = image.shape[-2:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return image.new_zeros(len(image))
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = image[:, top, left] * (1 - x + left) + image[:, top, right] * (x - left)
    lower = image[:, bottom, left] * (1 - x + left) + image[:, bottom, right] * (x - left)
    return upper * (1 - y + top) + lower * (y - top)


def plain_roi_align(
    features: torch.Tensor, roi: list[float], size: tuple[int, int], sampling_ratio: int, aligned: bool
) -> torch.Tensor:
    x1, y1, x2, y2 = (value * SCALE - (0.5 if aligned else 0.0) for value in roi[1:])
    width, height = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1.0), max(y2 - y1, 1.0))
    bin_height, bin_width = height / size[0], width / size[1]
    samples_y, samples_x = sampling_ratio or math.ceil(bin_height), sampling_ratio or math.ceil(bin_width)
    output = features.new_zeros(features.shape[1], *size)
    for row in range(size[0]):
        for column in range(size[1]):
            for sample_y in range(samples_y):
                for sample_x in range(samples_x):
                    y = y1 + (row + (sample_y + 0.5) / samples_y) * bin_height
                    x = x1 + (column + (sample_x + 0.5) / samples_x) * bin_width
                    value = bilinear(features[int(roi[0])], y, x)
                    output[:, row, column] += value / (samples_y * samples_x)
    return output


def plain_roi_pool(features: torch.Tensor, roi: list[float], size: tuple[int, int]) -> torch.Tensor:
    """Largest value of each bin; x2 and y2 are the last pixels inside, and only the borders of bins are rounded."""
    x1, y1, x2, y2 = roi[1] * SCALE, roi[2] * SCALE, (roi[3] + 1) * SCALE, (roi[4] + 1) * SCALE
    output = features.new_zeros(features.shape[1], *size)
    for row in range(size[0]):
        for column in range(size[1]):
            top = max(math.floor(y1 + row * (y2 - y1) / size[0]), 0)
            left = max(math.floor(x1 + column * (x2 - x1) / size[1]), 0)
            bottom, right = (
                math.ceil(y1 + (row + 1) * (y2 - y1) / size[0]),
                math.ceil(x1 + (column + 1) * (x2 - x1) / size[1]),
            )
            pixels = features[int(roi[0]), :, top : max(bottom, 0), left : max(right, 0)]
            if pixels.numel():
                output[:, row, column] = pixels.amax(dim=(1, 2))
    return output


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
def test_roi_align_averages_bilinear_samples(sampling_ratio: int, aligned: bool, device: str) -> None:
    features, size = feature_map(), (2, 3)
    rois = torch.tensor(ROIS, device=device).double()
    pooled = roi_align(features.to(device), rois, size, SCALE, sampling_ratio, "avg", aligned)
    expected = [plain_roi_align(features, roi, size, sampling_ratio, aligned) for roi in rois.tolist()]
    torch.testing.assert_close(pooled.cpu(), torch.stack(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_gradient_is_that_of_finite_differences(sampling_ratio: int, aligned: bool, device: str) -> None:
    features, rois = feature_map(device)[:, :1].requires_grad_(), torch.tensor(ROIS, device=device).double()
    torch.autograd.gradcheck(
        lambda x: roi_align(x, rois, (2, 3), SCALE, sampling_ratio, "avg", aligned), features, nondet_tol=1e-10
    )


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_the_deterministic_gradient_is_that_of_the_kernel(
    sampling_ratio: int, aligned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swin_dense.ops.roi.REGIONS_AT_ONCE", 2)
    features, rois = feature_map().requires_grad_(), torch.tensor(ROIS).double()
    pooled = roi_align(features, rois, (2, 3), SCALE, sampling_ratio, "avg", aligned)
    upstream = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1)).double()
    (expected,) = torch.autograd.grad(pooled, features, upstream)
    found = torch.ones_like(features)  # it is added to what is there
    add_gradient_in_order(upstream, rois, found.detach(), SCALE, sampling_ratio, aligned)
    torch.testing.assert_close(found - 1, expected, rtol=1e-10, atol=1e-10)


@pytest.fixture
def threads() -> Iterator[int]:
    """How many threads PyTorch uses, which a test may change."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_threads_share_regions_and_channels(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr("swin_dense.ops.roi.SMALLEST_SHARE", 1)
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        features = feature_map().requires_grad_()
        pooled = roi_align(features, torch.tensor(ROIS).double(), (2, 3), SCALE)
        upstream = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1)).double()
        found.append((pooled.detach(), *torch.autograd.grad(pooled, features, upstream)))
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                assert torch.equal(roi_align(feature_map(), torch.tensor(ROIS).double(), (2, 3), SCALE), pooled)
    assert all(torch.equal(*pair) for some in found[1:] for pair in zip(some, found[0], strict=True))
    assert found[0][1].abs().sum() > 0


def test_threads_start_no_threads_of_their_own(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Each would start as many as PyTorch has: 4,096 on 64 cores."""
    monkeypatch.setattr("swin_dense.ops.roi.SMALLEST_SHARE", 1)
    torch.set_num_threads(3)
    seen = []
    for name in ("roi_align", "_roi_align_backward"):
        kernel = getattr(torchvision_kernels, name)

        def noted(*arguments: Any, kernel: Any = kernel) -> torch.Tensor:
            seen.append((threading.get_ident(), torch.get_num_threads()))
            pooled: torch.Tensor = kernel(*arguments)
            return pooled

        monkeypatch.setattr(torchvision_kernels, name, noted)
    features = feature_map().requires_grad_()
    roi_align(features, torch.tensor(ROIS).double(), (2, 3), SCALE).sum().backward()
    assert len(seen) == 6 and threading.get_ident() not in dict(seen)
    assert {count for _, count in seen} == {1} and torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 3  # what other threads begin with


def test_roi_align_gradient_from_a_transposed_head_is_right() -> None:
    """Heads that permute the pooled map hand a non-contiguous gradient back."""
    features, rois = feature_map()[:, :1].requires_grad_(), torch.tensor(ROIS).double()
    torch.autograd.gradcheck(lambda x: roi_align(x, rois, (2, 3), SCALE).transpose(2, 3) ** 2, features)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_roi_align_in_half_precision_rounds_the_result_alone(dtype: torch.dtype, device: str) -> None:
    half = feature_map(device).to(dtype).requires_grad_()
    full = half.detach().double().requires_grad_()
    rois = torch.tensor(ROIS, device=device).to(dtype)
    plain = roi_align(half, rois, (2, 3), SCALE)
    with torch.autocast(device, dtype=dtype):
        pooled = roi_align(half, rois.float(), (2, 3), SCALE)
    expected = roi_align(full, rois.double(), (2, 3), SCALE)
    assert pooled.dtype == plain.dtype == dtype
    torch.testing.assert_close(pooled, expected.to(dtype))
    torch.testing.assert_close(plain, expected.to(dtype))
    pooled.sum().backward()
    expected.sum().backward()
    assert half.grad is not None and full.grad is not None
    torch.testing.assert_close(half.grad, full.grad.to(dtype))


def test_max_pooled_roi_align_says_what_to_set() -> None:
    with pytest.raises(UnsupportedOpError, match="roi_align with pool_mode='max'.*pool_mode='avg'"):
        RoIAlign(2, SCALE, pool_mode="max")(feature_map(), torch.tensor(ROIS).double())


def test_roi_pool_takes_the_maximum_of_unrounded_regions(device: str) -> None:
    features, size = feature_map(), (3, 2)
    rois = torch.tensor(ROIS, device=device).double()
    pooled = roi_pool(features.to(device), rois, size, SCALE)
    expected = torch.stack([plain_roi_pool(features, roi, size) for roi in rois.tolist()])
    torch.testing.assert_close(pooled.cpu(), expected, rtol=0, atol=0)
    assert not pooled.eq(0).all(dim=(1, 2, 3)).any()


def test_roi_pool_gradient_is_that_of_finite_differences(device: str) -> None:
    features, rois = feature_map(device)[:, :1].requires_grad_(), torch.tensor(ROIS, device=device).double()
    torch.autograd.gradcheck(lambda x: roi_pool(x, rois, (3, 2), SCALE), features, nondet_tol=1e-10)


@pytest.mark.parametrize("corners", [[40.0, 40.0, 50.0, 50.0], [-50.0, -50.0, -40.0, -40.0], [9.0, 9.0, 4.0, 4.0]])
def test_roi_pool_of_nothing_is_zero_and_gives_no_gradient(corners: list[float]) -> None:
    features = feature_map().requires_grad_()
    pooled = roi_pool(features, torch.tensor([[0.0, *corners]]).double(), (3, 2), SCALE)
    pooled.sum().backward()
    assert features.grad is not None
    assert not pooled.any() and not features.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_roi_pool_takes_half_precision(dtype: torch.dtype, device: str) -> None:
    half = feature_map(device).to(dtype).requires_grad_()
    rois = torch.tensor(ROIS, device=device).to(dtype)
    pooled = roi_pool(half, rois, (3, 2), SCALE)
    expected = roi_pool(half.detach().double(), rois.double(), (3, 2), SCALE)
    torch.testing.assert_close(pooled, expected.to(dtype), rtol=0, atol=0)
    pooled.sum().backward()
    assert half.grad is not None and half.grad.sum() == pooled.numel()


@pytest.mark.parametrize("layer", [RoIAlign(2, SCALE), RoIPool(2, SCALE), DeformRoIPool(2, SCALE)])
def test_no_regions_give_no_output_and_a_zero_gradient(layer: torch.nn.Module, device: str) -> None:
    features = feature_map(device).requires_grad_()
    pooled = layer(features, torch.zeros(0, 5, device=device).double())
    assert pooled.shape == (0, 3, 2, 2)
    pooled.sum().backward()
    assert features.grad is not None and not features.grad.any()


LAYERS = {
    "align": lambda features, rois: roi_align(features, rois, (2, 3), SCALE, 2),
    "align, adaptive": lambda features, rois: roi_align(features, rois, (2, 3), SCALE, 0),
    "align, older": lambda features, rois: roi_align(features, rois, (2, 3), SCALE, 0, "avg", False),
    "pool": lambda features, rois: roi_pool(features, rois, (2, 3), SCALE),
    "deformable": lambda features, rois: deform_roi_pool(features, rois, None, (2, 3), SCALE, 0, 0.1),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38, -3e38, 1e9])
@pytest.mark.parametrize("column", range(5))
def test_a_region_that_is_not_sound_spoils_its_own_result_alone(name: str, value: float, column: int) -> None:
    rois = torch.tensor(ROIS)
    expected = LAYERS[name](feature_map().float(), rois)
    rois[1, column] = value
    features = feature_map().float().requires_grad_()
    pooled = LAYERS[name](features, rois)
    others = [0, 2, 3, 4]
    torch.testing.assert_close(pooled[others], expected[others], rtol=0, atol=0)
    if not math.isfinite(value) or column == 0:
        assert pooled[1].isnan().all()
    pooled[others].sum().backward()
    assert features.grad is not None and features.grad.isfinite().all()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("image", [-1, 2])
def test_a_region_of_an_image_that_is_not_there_gives_no_number(name: str, image: int) -> None:
    pooled = LAYERS[name](feature_map(), torch.tensor([[float(image), 1.0, 1.0, 9.0, 9.0]]).double())
    assert pooled.isnan().all()


@pytest.mark.parametrize("corners", [[9.0, 2.0, 4.0, 8.0], [2.0, 9.0, 8.0, 4.0], [9.0, 9.0, 4.0, 4.0]])
@pytest.mark.parametrize("name", ["align, adaptive", "deformable"])
def test_an_inverted_region_has_no_samples(name: str, corners: list[float], device: str) -> None:
    features = feature_map(device).requires_grad_()
    pooled = LAYERS[name](features, torch.tensor([[0.0, *corners]], device=device).double())
    pooled.sum().backward()
    assert features.grad is not None
    assert not pooled.any() and not features.grad.any()


@pytest.mark.parametrize("aligned", [True, False])
def test_a_region_far_larger_than_its_map_is_sampled_as_any_other(aligned: bool) -> None:
    """torchvision keeps a table of every sample, and 3,000 x 2,000 of them were too many."""
    roi = [1.0, -2000.0, -1500.0, 2404.0, 2503.0]
    features = feature_map().requires_grad_()
    pooled = roi_align(features, torch.tensor([roi]).double(), (2, 3), SCALE, 0, "avg", aligned)
    x = bilinear_axis(11, roi[1] * SCALE - aligned / 2, (roi[3] - roi[1]) * SCALE, 3)
    y = bilinear_axis(9, roi[2] * SCALE - aligned / 2, (roi[4] - roi[2]) * SCALE, 2)
    expected = torch.einsum("ih,jw,chw->cij", y, x, features[1])
    torch.testing.assert_close(pooled[0], expected, rtol=1e-9, atol=1e-12)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)).double()
    gradients = [torch.autograd.grad(one, features, upstream)[0] for one in (pooled[0], expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def bilinear_axis(limit: int, start: float, length: float, bins: int) -> torch.Tensor:
    """What each pixel of a line counts in each bin; bilinear samples of a map are the product of both axes."""
    counts = math.ceil(length / bins)
    matrix = torch.zeros(bins, limit).double()
    for row in range(bins):
        for sample in range(counts):
            position = start + (row + (sample + 0.5) / counts) * length / bins
            for pixel in range(limit):
                unit = torch.zeros(1, 1, limit).double()
                unit[..., pixel] = 1
                if -1 <= position <= limit:
                    matrix[row, pixel] += bilinear(unit, 0.0, position)[0] / counts
    return matrix


def offsets(device: str = "cpu") -> torch.Tensor:
    return torch.randn(len(ROIS), 2, 2, 3, generator=torch.Generator().manual_seed(5)).double().to(device)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("moved", [True, False])
def test_deformable_pooling_moves_each_bin(sampling_ratio: int, moved: bool, device: str) -> None:
    features, size, gamma = feature_map(), (2, 3), 0.3
    rois = torch.tensor(ROIS, device=device).double()
    expected = []
    for roi, shift in zip(rois.tolist(), offsets(), strict=True):
        width, height = (roi[3] - roi[1]) * gamma, (roi[4] - roi[2]) * gamma
        bins = features.new_zeros(3, *size)
        for row in range(size[0]):
            for column in range(size[1]):
                x, y = (shift[:, row, column] * moved).tolist()
                there = [roi[0], roi[1] + x * width, roi[2] + y * height, roi[3] + x * width, roi[4] + y * height]
                bins[:, row, column] = plain_roi_align(features, there, size, sampling_ratio, True)[:, row, column]
        expected.append(bins)
    offset = offsets(device) if moved else None
    pooled = deform_roi_pool(features.to(device), rois, offset, size, SCALE, sampling_ratio, gamma)
    torch.testing.assert_close(pooled.cpu(), torch.stack(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_deformable_pooling_gradients_are_those_of_finite_differences(sampling_ratio: int, device: str) -> None:
    features, rois = feature_map(device)[:, :1].requires_grad_(), torch.tensor(ROIS[:3], device=device).double()
    torch.autograd.gradcheck(
        lambda x, offset: deform_roi_pool(x, rois, offset, (2, 3), SCALE, sampling_ratio, 0.1),
        (features, offsets(device)[:3].requires_grad_()),
        nondet_tol=1e-10,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_deformable_pooling_takes_half_precision(dtype: torch.dtype, device: str) -> None:
    features, rois = feature_map(device).to(dtype), torch.tensor(ROIS, device=device).to(dtype)
    offset = offsets(device).to(dtype).requires_grad_()
    pooled = deform_roi_pool(features, rois, offset, (2, 3), SCALE, 0, 0.1)
    expected = deform_roi_pool(features.double(), rois.double(), offset.double(), (2, 3), SCALE, 0, 0.1)
    torch.testing.assert_close(pooled, expected.to(dtype))
    pooled.sum().backward()
    assert offset.grad is not None and offset.grad.isfinite().all()
