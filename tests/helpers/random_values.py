"""Random values for the parameters of a model."""

from __future__ import annotations

import torch
from torch import nn


def randomised(model: nn.Module, seed: int = 1) -> nn.Module:
    """Gives every parameter values that matter, so that none can be left out or swapped unseen; for evaluation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.copy_(0.3 * values + (1.0 if name.endswith("weight") else 0.0))
            elif "bias_table" in name:
                parameter.copy_(values)
            else:
                parameter.copy_(values / parameter[0].numel() ** 0.5)
    model.eval()  # some models of other libraries do not return themselves from eval()
    return model
