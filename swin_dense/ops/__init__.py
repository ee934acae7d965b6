"""The compiled mmcv ops that models need, on torchvision's kernels or in plain PyTorch; `OPS` has mmcv's names.

Signatures are those of mmcv's compiled ops, so that its autograd wrappers call them unchanged. Where a file does not
say otherwise, forward functions overwrite `output` and backward functions add to the gradient buffers. Scratch space
(`columns`, `ones`) and `im2col_step` (images per step) concern the compiled ops alone and have no effect here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from swin_dense.ops.carafe import carafe_backward, carafe_forward, carafe_naive_backward, carafe_naive_forward
from swin_dense.ops.deform_attention import ms_deform_attn_backward, ms_deform_attn_forward
from swin_dense.ops.deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from swin_dense.ops.deform_roi_pool import deform_roi_pool_backward, deform_roi_pool_forward
from swin_dense.ops.focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from swin_dense.ops.kernels import get_compiler_version, get_compiling_cuda_version
from swin_dense.ops.masked_conv import masked_col2im_forward, masked_im2col_forward
from swin_dense.ops.nms import nms, nms_match, softnms
from swin_dense.ops.psa_mask import psamask_backward, psamask_forward
from swin_dense.ops.roi import roi_align_backward, roi_align_forward, roi_pool_backward, roi_pool_forward

OPS: dict[str, Callable[..., Any]] = {
    op.__name__: op
    for op in (
        nms,
        softnms,
        nms_match,
        roi_align_forward,
        roi_align_backward,
        roi_pool_forward,
        roi_pool_backward,
        deform_roi_pool_forward,
        deform_roi_pool_backward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
        softmax_focal_loss_forward,
        softmax_focal_loss_backward,
        deform_conv_forward,
        deform_conv_backward_input,
        deform_conv_backward_parameters,
        modulated_deform_conv_forward,
        modulated_deform_conv_backward,
        ms_deform_attn_forward,
        ms_deform_attn_backward,
        masked_im2col_forward,
        masked_col2im_forward,
        carafe_naive_forward,
        carafe_naive_backward,
        carafe_forward,
        carafe_backward,
        psamask_forward,
        psamask_backward,
        get_compiler_version,
        get_compiling_cuda_version,
    )
}

__all__ = ["OPS"]
