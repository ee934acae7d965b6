"""torchvision's compiled kernels, how they were compiled, and the number format in which we call them."""

from __future__ import annotations

from functools import reduce

import torch
import torchvision  # which registers torch.ops.torchvision
from torch import Tensor

torchvision_kernels = torch.ops.torchvision


def full_precision(*tensors: Tensor) -> list[Tensor]:
    """Casts tensors to one common floating type of at least float32.

    torchvision's kernels want one type for all inputs and, outside autocast, have no bfloat16 form; box coordinates
    and interpolation weights would lose whole pixels in half precision anyhow. It is float64 if one of them is, and
    tensors that have the type already are not copied.
    """
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    return [tensor.to(dtype) for tensor in tensors]


def get_compiler_version() -> str:
    """What `mmcv.utils.collect_env` states as the compiler of mmcv's ops."""
    return f"none: ops are those of torchvision {torchvision.__version__}"


def get_compiling_cuda_version() -> str:
    """What `mmcv.utils.collect_env` states as the CUDA version that mmcv's ops were compiled with."""
    return torch.version.cuda or "not available"
