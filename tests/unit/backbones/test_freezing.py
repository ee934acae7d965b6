"""Frozen stages: nothing random, nothing kept for a backward pass, from the first moment on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from swin_dense.backbones.swin import SwinTransformer


def backbone(frozen_stages: int, **options: object) -> SwinTransformer:
    torch.manual_seed(0)
    shape = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 3, "out_indices": (0, 1)}
    return SwinTransformer(**shape, drop_path_rate=0.9, frozen_stages=frozen_stages, **options)


def test_frozen_parts_are_in_evaluation_mode_before_anybody_asks() -> None:
    """Trainers need not call `train()` on a new model, which is in training mode already."""
    model = backbone(frozen_stages=1)
    evaluating = {name for name, module in model.named_modules() if not module.training}
    frozen = {name for name, _ in model.named_modules() if name.startswith(("patch_embed", "layers.0", "norm0"))}
    assert evaluating == frozen
    torch.manual_seed(1)
    images = torch.randn(4, 3, 30, 26)
    assert torch.equal(model(images)[0], model(images)[0])
    assert not torch.equal(model(images)[1], model(images)[1])


@pytest.mark.parametrize("activation_checkpointing", [False, True])
@pytest.mark.parametrize(("frozen_stages", "part"), [(0, 0.9), (1, 0.5), (2, 0.0)])
def test_nothing_is_kept_for_the_backward_pass_of_frozen_stages(
    frozen_stages: int, part: float, activation_checkpointing: bool
) -> None:
    kept, of_all = (
        kept_values(backbone(frozen, activation_checkpointing=activation_checkpointing))
        for frozen in (frozen_stages, -1)
    )
    assert kept <= part * of_all if part else kept == 0


def kept_values(model: SwinTransformer) -> int:
    """Numbers that a forward pass keeps for the backward pass, without the parameters and the input."""
    images = torch.randn(1, 3, 48, 48)
    own = {tensor.data_ptr() for tensor in (images, *model.parameters())}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point() and tensor.data_ptr() not in own:
            sizes[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        maps = model(images)
    assert maps[-1].requires_grad == (model.frozen_stages < 2)
    return sum(sizes.values())
