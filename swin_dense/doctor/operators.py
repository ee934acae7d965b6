"""Every operator of `ops` on a device, forward and backward, against itself in float64 on the CPU.

The operators compute half precision in float32, so that their results are those of their inputs rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from swin_dense.doctor.device import PRECISIONS, Measured, Measurement, difference
from swin_dense.ops import OPS

TOLERANCES = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
"""Of the largest value: float32 sums in another order; half precision rounds a result, and adds to gradients, once."""

IOU_THRESHOLD = 0.307
"""No quotient of small whole numbers, with which a rounding would decide."""

Results = Sequence[Tensor]


@dataclass(frozen=True)
class Case:
    """Operators that belong together: `compute` calls them, forward and backward, on tensors made by `inputs`.

    Floating tensors are moved to the type and the device that are checked, others to the device alone.
    """

    name: str
    operators: tuple[str, ...]
    inputs: Callable[[], Sequence[Tensor]]
    compute: Callable[..., Results]


def operator_checks(device: torch.device) -> Iterator[tuple[str, Measurement]]:
    """All operators in each precision; float32 also stands for the indices that some of them return."""
    for case in CASES:
        for precision in PRECISIONS:
            yield f"operators: {case.name}, {precision}", partial(_measure, case, device, precision)


def _measure(case: Case, device: torch.device, precision: str) -> Measured:
    torch.manual_seed(0)
    rounded = [_cast(one, PRECISIONS[precision]) for one in case.inputs()]
    # The buffers of an operator have the type of its inputs: float64 ones give the exact results.
    expected = case.compute(*(_cast(one, torch.float64) for one in rounded))
    found = case.compute(*(one.to(device) for one in rounded))
    if device.type != "cpu":
        wrong = [one.device for one in found if one.device.type != device.type]
        if wrong:
            raise TypeError(f"a result lies on {wrong[0]}")
    return Measured(difference(found, expected), TOLERANCES[precision])


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _regions() -> Tensor:
    """Image index, x1, y1, x2, y2 of a map half as large; whole numbers, which every precision holds."""
    return torch.tensor(
        [
            [0.0, 2, 1, 13, 12],
            [1, 0, 0, 21, 17],
            [1, 5, 3, 6, 4],
            [0, -4, -3, 30, 25],
            [1, 8, 8, 8, 8],
            [0, 3, 0, 4, 17],
        ]
    )


def _boxes(count: int = 200) -> Tensor:
    corners = torch.randint(0, 200, (count, 2)).float()
    return torch.cat([corners, corners + torch.randint(8, 56, (count, 2)).float()], dim=1)


def _scores(count: int = 200) -> Tensor:
    """All different, in every precision."""
    return (torch.randperm(count).float() + 1) / 256


def _roi_align(
    features: Tensor, rois: Tensor, upstream: Tensor, sampling_ratio: int = 0, aligned: bool = True
) -> Results:
    output, gradient = torch.empty_like(upstream), torch.zeros_like(features)
    unused = features.new_empty(0)
    options = {
        "aligned_height": 2,
        "aligned_width": 4,
        "spatial_scale": 0.5,
        "sampling_ratio": sampling_ratio,
        "pool_mode": 1,
        "aligned": aligned,
    }
    OPS["roi_align_forward"](features, rois, output, unused, unused, **options)
    OPS["roi_align_backward"](upstream, rois, unused, unused, gradient, **options)
    return output, gradient


def _roi_pool(features: Tensor, rois: Tensor, upstream: Tensor) -> Results:
    output, gradient = torch.empty_like(upstream), torch.zeros_like(features)
    argmax = torch.empty(upstream.shape, dtype=torch.int32, device=upstream.device)
    options = {"pooled_height": 2, "pooled_width": 4, "spatial_scale": 0.5}
    OPS["roi_pool_forward"](features, rois, output, argmax, **options)
    OPS["roi_pool_backward"](upstream, rois, argmax, gradient, **options)
    return output, argmax, gradient


def _deform_roi_pool(features: Tensor, rois: Tensor, upstream: Tensor, offset: Tensor) -> Results:
    output, gradients = torch.empty_like(upstream), [torch.zeros_like(one) for one in (features, offset)]
    options = {"pooled_height": 2, "pooled_width": 4, "spatial_scale": 0.5, "sampling_ratio": 2, "gamma": 0.125}
    OPS["deform_roi_pool_forward"](features, rois, offset, output, **options)
    OPS["deform_roi_pool_backward"](upstream, features, rois, offset, *gradients, **options)
    return output, *gradients


def _deform_conv(image: Tensor, offset: Tensor, weight: Tensor, upstream: Tensor) -> Results:
    output, gradients = torch.empty_like(upstream), [torch.zeros_like(one) for one in (image, offset, weight)]
    scratch = image.new_empty(0)
    names = ("dW", "dH", "padW", "padH", "dilationW", "dilationH", "group", "deformable_group")
    options = {**dict(zip(names, (2, 1, 1, 1, 1, 1, 2, 2), strict=True)), "im2col_step": 2, "kW": 3, "kH": 3}
    OPS["deform_conv_forward"](image, weight, offset, output, scratch, scratch, **options)
    OPS["deform_conv_backward_input"](image, offset, upstream, *gradients[:2], weight, scratch, **options)
    OPS["deform_conv_backward_parameters"](
        image, offset, upstream, gradients[2], scratch, scratch, scale=1.0, **options
    )
    return output, *gradients


def _modulated_deform_conv(
    image: Tensor, offset: Tensor, weight: Tensor, upstream: Tensor, mask: Tensor, bias: Tensor
) -> Results:
    tensors = (image, weight, bias, offset, mask)
    output, gradients = torch.empty_like(upstream), [torch.zeros_like(one) for one in tensors]
    scratch = image.new_empty(0)
    names = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w", "group", "deformable_group")
    options: dict[str, Any] = dict(zip(names, (1, 2, 1, 1, 1, 1, 2, 2), strict=True))
    options |= {"kernel_h": 3, "kernel_w": 3, "with_bias": True}
    OPS["modulated_deform_conv_forward"](image, weight, bias, scratch, offset, mask, output, scratch, **options)
    OPS["modulated_deform_conv_backward"](
        image, weight, bias, scratch, offset, mask, scratch, *gradients, upstream, **options
    )
    return output, *gradients


def _carafe(features: Tensor, masks: Tensor, upstream: Tensor, naive: bool = False) -> Results:
    output, gradients = torch.empty_like(upstream), [torch.zeros_like(one) for one in (features, masks)]
    options = {"kernel_size": 3, "group_size": 2, "scale_factor": 2}
    if naive:
        OPS["carafe_naive_forward"](features, masks, output, **options)
        OPS["carafe_naive_backward"](upstream, features, masks, *gradients, **options)
    else:
        kept, scratch = torch.empty_like(features), features.new_empty(0)
        OPS["carafe_forward"](features, masks, kept, scratch, scratch, output, **options)
        OPS["carafe_backward"](upstream, kept, masks, *[scratch] * 4, *gradients, **options)
    return output, *gradients


def _deform_attention(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor, upstream: Tensor) -> Results:
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    inputs = (value, shapes, starts, locations, weights)
    gradients = [torch.zeros_like(one) for one in (value, locations, weights)]
    output = OPS["ms_deform_attn_forward"](*inputs, im2col_step=64)
    OPS["ms_deform_attn_backward"](*inputs, upstream, *gradients, im2col_step=64)
    return output, *gradients


def _sigmoid_focal_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Results:
    output, gradient = torch.empty_like(logits), torch.empty_like(logits)
    OPS["sigmoid_focal_loss_forward"](logits, target, weight, output, gamma=2.0, alpha=0.25)
    OPS["sigmoid_focal_loss_backward"](logits, target, weight, gradient, gamma=2.0, alpha=0.25)
    return output, gradient


def _softmax_focal_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Results:
    softmax = logits.softmax(dim=1)
    output, scratch, gradient = logits.new_empty(len(logits)), logits.new_empty(len(logits)), torch.empty_like(logits)
    OPS["softmax_focal_loss_forward"](softmax, target, weight, output, gamma=2.0, alpha=0.25)
    OPS["softmax_focal_loss_backward"](softmax, target, weight, scratch, gradient, gamma=2.0, alpha=0.25)
    return output, gradient


def _masked_conv(image: Tensor, rows: Tensor, columns: Tensor) -> Results:
    """Takes out the patches of the places, and puts their centres back into zeros."""
    patches = image.new_empty(4 * 9, len(rows))
    OPS["masked_im2col_forward"](image, rows, columns, patches, kernel_h=3, kernel_w=3, pad_h=1, pad_w=1)
    centres, filled = patches.view(4, 9, -1)[:, 4].contiguous(), torch.zeros_like(image)
    OPS["masked_col2im_forward"](centres, rows, columns, filled, height=5, width=7, channels=4)
    return patches, filled


def _nms(boxes: Tensor, scores: Tensor) -> Results:
    return [OPS["nms"](boxes, scores, iou_threshold=IOU_THRESHOLD, offset=offset) for offset in (0, 1)]


def _softnms(boxes: Tensor, scores: Tensor) -> Results:
    results: list[Tensor] = []
    for method in range(3):
        rows = boxes.new_zeros(len(boxes), 5)
        kept = OPS["softnms"](boxes, scores, rows, IOU_THRESHOLD, sigma=0.5, min_score=0.1, method=method, offset=0)
        results += [kept, rows[:, :4], rows[:, 4]]
    return results


def _nms_match(boxes: Tensor, scores: Tensor) -> Results:
    groups = OPS["nms_match"](torch.cat([boxes, scores[:, None]], dim=1), IOU_THRESHOLD)
    return [torch.tensor([index for group in groups for index in group], device=boxes.device)]


def _psa_mask(values: Tensor, upstream: Tensor) -> Results:
    results: list[Tensor] = []
    options = dict(num_=2, h_feature=4, w_feature=6, h_mask=3, w_mask=5, half_h_mask=1, half_w_mask=2)
    for kind in (0, 1):
        output, gradient = torch.empty_like(upstream), torch.empty_like(values)
        OPS["psamask_forward"](values, output, psa_type=kind, **options)
        OPS["psamask_backward"](upstream, gradient, psa_type=kind, **options)
        results += [output, gradient]
    return results


def _named(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}_{way}" for name in names for way in ("forward", "backward"))


def _pooled() -> list[Tensor]:
    return [torch.randn(2, 3, 9, 11), _regions(), torch.randn(6, 3, 2, 4)]


def _convolved() -> list[Tensor]:
    return [torch.randn(2, 4, 9, 10), 2 * torch.randn(2, 36, 9, 5), torch.randn(6, 2, 3, 3), torch.randn(2, 6, 9, 5)]


def _upsampled() -> list[Tensor]:
    return [torch.randn(2, 4, 3, 5), torch.randn(2, 18, 6, 10), torch.randn(2, 4, 6, 10)]


def _attended() -> list[Tensor]:
    """Points lie in the middle of a quarter of a cell, where a rounding moves none of them over the border of two."""
    locations = (torch.randint(-4, 20, (2, 6, 3, 2, 2, 2)).float() + 0.5) / 16
    return [
        torch.randn(2, 8 * 8 + 4 * 4, 3, 4),
        torch.tensor([[8, 8], [4, 4]]),
        locations,
        torch.rand(2, 6, 3, 2, 2),
        torch.randn(2, 6, 12),
    ]


def _classified(background: int) -> list[Tensor]:
    return [2 * torch.randn(50, 5), torch.randint(-1, 5 + background, (50,)), torch.rand(5)]


CASES = (
    *(
        Case(
            f"roi_align, sampling_ratio {ratio}{', aligned' if aligned else ''}",
            _named("roi_align"),
            _pooled,
            partial(_roi_align, sampling_ratio=ratio, aligned=aligned),
        )
        for ratio in (0, 2)
        for aligned in (False, True)
    ),
    Case("roi_pool", _named("roi_pool"), _pooled, _roi_pool),
    Case(
        "deform_roi_pool",
        _named("deform_roi_pool"),
        lambda: [*_pooled(), torch.randn(6, 2, 2, 4)],
        _deform_roi_pool,
    ),
    Case(
        "deform_conv",
        ("deform_conv_forward", "deform_conv_backward_input", "deform_conv_backward_parameters"),
        _convolved,
        _deform_conv,
    ),
    Case(
        "modulated_deform_conv",
        _named("modulated_deform_conv"),
        lambda: [*_convolved(), torch.rand(2, 18, 9, 5), torch.randn(6)],
        _modulated_deform_conv,
    ),
    Case("carafe", _named("carafe"), _upsampled, _carafe),
    Case("carafe_naive", _named("carafe_naive"), _upsampled, partial(_carafe, naive=True)),
    Case("ms_deform_attn", _named("ms_deform_attn"), _attended, _deform_attention),
    Case("sigmoid_focal_loss", _named("sigmoid_focal_loss"), partial(_classified, 1), _sigmoid_focal_loss),
    Case("softmax_focal_loss", _named("softmax_focal_loss"), partial(_classified, 0), _softmax_focal_loss),
    Case(
        "masked_conv",
        ("masked_im2col_forward", "masked_col2im_forward"),
        lambda: [torch.randn(1, 4, 5, 7), torch.tensor([0, 2, 4, 4]), torch.tensor([0, 3, 6, 1])],
        _masked_conv,
    ),
    Case("nms", ("nms",), lambda: [_boxes(), _scores()], _nms),
    Case("softnms", ("softnms",), lambda: [_boxes(), _scores()], _softnms),
    Case("nms_match", ("nms_match",), lambda: [_boxes(), _scores()], _nms_match),
    Case("psa_mask", _named("psamask"), lambda: [torch.randn(2, 15, 4, 6), torch.randn(2, 24, 4, 6)], _psa_mask),
)
"""Every operator that computes something."""
