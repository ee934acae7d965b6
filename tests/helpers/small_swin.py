"""A small Swin, a detector around it, and a checkpoint as published, all with random values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from swin_dense.backbones.swin import SwinTransformer
from swin_dense.weights.report import Note

WIDTH, DEPTHS, HEADS = 8, (1, 1, 2, 1), (1, 1, 2, 2)


def backbone(seed: int = 0, window_size: int = 2, **options: object) -> SwinTransformer:
    torch.manual_seed(seed)
    return randomised(SwinTransformer(WIDTH, DEPTHS, HEADS, window_size, **options))


def randomised(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


class Detector(nn.Module):
    """A backbone, a neck and a head, named as in a detector."""

    def __init__(self, seed: int = 0, classes: int = 3, **options: object) -> None:
        super().__init__()
        self.backbone = backbone(seed, **options)
        self.neck = nn.ModuleDict({"norm": nn.BatchNorm2d(4)})
        self.roi_head = nn.ModuleDict({"fc_cls": nn.Linear(4, classes + 1), "fc_reg": nn.Linear(4, classes * 4)})
        randomised(self)


class OtherDetector(nn.Module):
    """One whose backbone is no Swin, with parameters named as in torchvision's ResNets."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"conv1": nn.Conv2d(3, 4, 1), "bn1": nn.BatchNorm2d(4)})
        self.roi_head = nn.ModuleDict({"fc_cls": nn.Linear(4, 4)})
        torch.manual_seed(seed)
        randomised(self)


def official_classifier(window_size: int = 2, classes: int = 5) -> dict[str, Tensor]:
    """A classification checkpoint by its published names and shapes."""
    torch.manual_seed(99)
    area, state = window_size**2, {}

    def add(name: str, *shape: int) -> None:
        state[name] = torch.randn(shape)

    add("patch_embed.proj.weight", WIDTH, 3, 4, 4)
    for name in ("patch_embed.proj.bias", "patch_embed.norm.weight", "patch_embed.norm.bias"):
        add(name, WIDTH)
    for i, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        channels = WIDTH * 2**i
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}"
            if j % 2 == 1:
                add(f"{block}.attn_mask", 4, area, area)
            add(f"{block}.attn.relative_position_bias_table", (2 * window_size - 1) ** 2, heads)
            state[f"{block}.attn.relative_position_index"] = torch.zeros(area, area, dtype=torch.int64)
            for name, outputs, inputs in (
                ("attn.qkv", 3, 1),
                ("attn.proj", 1, 1),
                ("mlp.fc1", 4, 1),
                ("mlp.fc2", 1, 4),
            ):
                add(f"{block}.{name}.weight", outputs * channels, inputs * channels)
                add(f"{block}.{name}.bias", outputs * channels)
            for name in ("norm1", "norm2"):
                add(f"{block}.{name}.weight", channels)
                add(f"{block}.{name}.bias", channels)
        if i < 3:
            add(f"layers.{i}.downsample.reduction.weight", 2 * channels, 4 * channels)
            add(f"layers.{i}.downsample.norm.weight", 4 * channels)
            add(f"layers.{i}.downsample.norm.bias", 4 * channels)
    add("norm.weight", WIDTH * 8)
    add("norm.bias", WIDTH * 8)
    add("head.weight", classes, WIDTH * 8)
    add("head.bias", classes)
    return state


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in right)


def clone(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def reasons(notes: tuple[Note, ...]) -> dict[str, str]:
    return {note.name: note.reason for note in notes}
