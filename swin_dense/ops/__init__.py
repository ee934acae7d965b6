"""The compiled mmcv ops that models need, on torchvision's kernels or in plain PyTorch; `OPS` has mmcv's names.

Signatures are those of mmcv's compiled ops, so that its autograd wrappers call them unchanged. Where a file does not
say otherwise, forward functions overwrite `output` and backward functions add to the gradient buffers. Scratch space
(`columns`, `ones`) and `im2col_step` (images per step) concern the compiled ops alone and have no effect here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from importlib import import_module
from typing import Any

import torch
import torchvision  # which registers torch.ops.torchvision
from torch import Tensor

torchvision_kernels = torch.ops.torchvision

FILES = {
    "carafe": ("carafe_forward", "carafe_backward", "carafe_naive_forward", "carafe_naive_backward"),
    "deform_attention": ("ms_deform_attn_forward", "ms_deform_attn_backward"),
    "deform_conv": (
        "deform_conv_forward",
        "deform_conv_backward_input",
        "deform_conv_backward_parameters",
        "modulated_deform_conv_forward",
        "modulated_deform_conv_backward",
    ),
    "deform_roi_pool": ("deform_roi_pool_forward", "deform_roi_pool_backward"),
    "focal_loss": (
        "sigmoid_focal_loss_forward",
        "sigmoid_focal_loss_backward",
        "softmax_focal_loss_forward",
        "softmax_focal_loss_backward",
    ),
    "masked_conv": ("masked_im2col_forward", "masked_col2im_forward"),
    "nms": ("nms", "softnms", "nms_match"),
    "psa_mask": ("psamask_forward", "psamask_backward"),
    "roi": ("roi_align_forward", "roi_align_backward", "roi_pool_forward", "roi_pool_backward"),
}
"""The ops of each file, which is imported when one of them is called: a model needs few of them."""


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


def _op(file: str, name: str) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        return getattr(import_module(f"swin_dense.ops.{file}"), name)(*args, **options)

    return call


OPS = {name: _op(file, name) for file, names in FILES.items() for name in names}
OPS |= {one.__name__: one for one in (get_compiler_version, get_compiling_cuda_version)}
"""Every op by name."""
