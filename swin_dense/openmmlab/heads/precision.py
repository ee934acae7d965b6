"""Places and coordinates in float32, whatever autocast says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off, where the device has it: the meta device, on which sizes are counted, has none.

    Args:
        device: Of the tensors that are worked with.
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def in_full_precision(layer: nn.Module, features: Tensor) -> Tensor:
    """Runs a layer in float32: bfloat16 would place a point that is 40 strides away to a quarter of a stride.

    Args:
        layer: With parameters in float32.
        features: Of any type.
    """
    with full_precision(features.device):
        exact: Tensor = layer(features.float())
        return exact
