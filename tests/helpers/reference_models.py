"""A classifier beside the same one of another library."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swin_dense.weights import convert_state_dict


def assert_same_logits_and_gradients(
    model: nn.Module, reference: nn.Module, images: Tensor, format: str = "auto"
) -> None:
    """`format` is that of the names of the reference."""
    ours, theirs = model(images), reference(images)
    theirs = getattr(theirs, "logits", theirs)
    assert ours.shape == theirs.shape
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm() and theirs.std() > 0.1
    cotangent = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(3))
    for logits in (ours, theirs):
        logits.backward(cotangent)
    # The same tables that carry weights over carry the gradients over.
    carried = {name: one.grad for name, one in reference.named_parameters()}
    wanted, _ = convert_state_dict(carried, "swin-dense", format=format)
    assert wanted.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and wanted[name].norm() > 0, name
        assert (parameter.grad - wanted[name]).norm() <= 1e-5 * wanted[name].norm(), name
