"""The two halves of a convolution that is computed at chosen places alone, as guided anchoring predicts.

Shapes: image (1, C, H, W), M places given by row and column, columns (C * kH * kW, M) or (C, M). There is no backward.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Overwrites `col` with the patch of the image at each place; it is zero outside the image."""
    # A place may be any pixel, with its patch reaching a kernel's size beyond the image where there is little padding.
    padded = functional.pad(im[0], [pad_w, kernel_w, pad_h, kernel_h])
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows[:, None], columns].reshape(col.shape))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Writes the values of each place into the image, which keeps all others."""
    im[0, :, mask_h_idx, mask_w_idx] = col
