"""Two functions that mmseg's heads call in training, computed quickly.

PyTorch adds up the gradient of a bilinear enlargement pixel by pixel, on a GPU in atomic operations, which takes many
times as long as the same sums by matrix products; and a search for the k best classes takes longer than a maximum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class QuickHeads(TorchFunctionMode):
    """Within it, bilinear enlargements have their gradient by products, and the best of one is a maximum."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls a function of PyTorch, or what stands in for it."""
        kwargs = kwargs or {}
        if func is functional.interpolate:
            return _interpolate(*args, **kwargs)
        if func is Tensor.topk and args[1:] == (1,) and kwargs.keys() == {"dim"}:
            return args[0].max(keepdim=True, **kwargs)
        return func(*args, **kwargs)


def _interpolate(
    maps: Tensor, *, size: Any, mode: str, align_corners: bool | None, antialias: bool, **more: Any
) -> Tensor:
    """`interpolate`, which hands all of its options to a mode by name."""
    if mode == "bilinear" and isinstance(size, tuple | list) and not antialias:
        return enlarge(maps, (size[0], size[1]), bool(align_corners))
    options = {"size": size, "mode": mode, "align_corners": align_corners, "antialias": antialias}
    return functional.interpolate(maps, **options, **more)


def enlarge(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Bilinear interpolation of (B, C, h, w) to (B, C, H, W), whose gradient is R^T G C of one map's gradient G.

    R (H, h) and C (W, w) hold the weights of rows and columns.
    """
    enlarged: Tensor = _Enlarge.apply(maps, size, align_corners)
    return enlarged


class _Enlarge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
        ctx.sides, ctx.align_corners = tuple(zip(maps.shape[-2:], size, strict=True)), align_corners
        return functional.interpolate(maps, size, mode="bilinear", align_corners=align_corners)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        exact = torch.promote_types(gradients[0].dtype, torch.float32)  # the weights would not fit half precision
        gradient = gradients[0].to(exact)
        rows, columns = (
            functional.interpolate(
                torch.eye(side, device=gradient.device, dtype=exact)[None],
                enlarged,
                mode="linear",
                align_corners=ctx.align_corners,
            )[0]
            for side, enlarged in ctx.sides
        )
        return (rows @ (gradient @ columns.T)).to(gradients[0].dtype), None, None
