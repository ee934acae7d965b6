"""torchvision's compiled kernels, and the number format in which we call them."""

from __future__ import annotations

from functools import reduce
from importlib import import_module

import torch
from torch import Tensor

import_module("torchvision")  # which registers torch.ops.torchvision
torchvision_kernels = torch.ops.torchvision


def full_precision(*tensors: Tensor) -> list[Tensor]:
    """Casts tensors to one common floating type of at least float32.

    torchvision's kernels want one type for all inputs and, outside autocast, have no bfloat16 form; box coordinates
    and interpolation weights would lose whole pixels in half precision anyhow.

    Args:
        *tensors: Tensors of any floating type.

    Returns:
        The same tensors in float32, or in float64 if one of them is; those that have the type already are not copied.
    """
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    return [tensor.to(dtype) for tensor in tensors]
