"""The official classification checkpoints, built from their published names and shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from helpers.small_swin import DEPTHS, HEADS, WIDTH, official_classifier
from swin_dense.backbones import VARIANTS, create_backbone
from swin_dense.backbones.swin import SwinTransformer
from swin_dense.weights import FORMATS, load_weights
from swin_dense.weights.layout import take_apart

PUBLISHED = [
    ("swin_tiny", 1000),
    ("swin_tiny", 21841),
    ("swin_small", 1000),
    ("swin_small", 21841),
    ("swin_base", 1000),
    ("swin_base", 21841),
    ("swin_base_384", 1000),
    ("swin_base_384", 21841),
    ("swin_large", 21841),
    ("swin_large", 1000),
    ("swin_large_384", 21841),
    ("swin_large_384", 1000),
]


def published_state_dict(variant: str, classes: int) -> dict[str, Tensor]:
    """Names and shapes of a published file; the tensors have no values."""
    sizes = VARIANTS[variant]
    width, window = sizes.embed_dim, sizes.window_size
    area, first_side = window**2, sizes.pretrain_image_size // 4
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (width, 3, 4, 4),
        "patch_embed.proj.bias": (width,),
    }

    def norm(name: str, channels: int) -> None:
        shapes.update({f"{name}.weight": (channels,), f"{name}.bias": (channels,)})

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    norm("patch_embed.norm", width)
    for i, (depth, heads) in enumerate(zip(sizes.depths, sizes.num_heads, strict=True)):
        channels, side = width * 2**i, first_side // 2**i
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}"
            if j % 2 == 1 and side > window:
                shapes[f"{block}.attn_mask"] = ((side // window) ** 2, area, area)
            norm(f"{block}.norm1", channels)
            shapes[f"{block}.attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads)
            shapes[f"{block}.attn.relative_position_index"] = (area, area)
            linear(f"{block}.attn.qkv", 3 * channels, channels)
            linear(f"{block}.attn.proj", channels, channels)
            norm(f"{block}.norm2", channels)
            linear(f"{block}.mlp.fc1", 4 * channels, channels)
            linear(f"{block}.mlp.fc2", channels, 4 * channels)
        if i < 3:
            norm(f"layers.{i}.downsample.norm", 4 * channels)
            shapes[f"layers.{i}.downsample.reduction.weight"] = (2 * channels, 4 * channels)
    norm("norm", 8 * width)
    linear("head", classes, 8 * width)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def shapes_of(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


@pytest.mark.parametrize(("variant", "classes"), PUBLISHED)
def test_every_published_size_has_exactly_the_parameters_of_our_backbone(variant: str, classes: int) -> None:
    parts = take_apart(published_state_dict(variant, classes), "auto")
    assert parts.layout == (FORMATS["official"], "") and not parts.unmatched and not parts.around
    ours = {name: item.tensor.shape for name, item in parts.backbone.items()}
    with torch.device("meta"):
        wanted = shapes_of(create_backbone(variant).state_dict())
    beyond = {name for name in ours if name.startswith(("norm.", "head.")) or name.endswith(("_index", "attn_mask"))}
    output_norms = {f"norm{i}.{leaf}" for i in range(4) for leaf in ("weight", "bias")}
    assert {name: shape for name, shape in ours.items() if name not in beyond} == {
        name: shape for name, shape in wanted.items() if name not in output_norms
    }


TIMM = {
    "swin_tiny": "swin_tiny_patch4_window7_224",
    "swin_small": "swin_small_patch4_window7_224",
    "swin_base": "swin_base_patch4_window7_224",
    "swin_base_384": "swin_base_patch4_window12_384",
    "swin_large": "swin_large_patch4_window7_224",
    "swin_large_384": "swin_large_patch4_window12_384",
}


@pytest.mark.parametrize("variant", TIMM)
def test_every_published_size_has_exactly_timms_parameters_under_its_names(variant: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        reference = timm.create_model(TIMM[variant], num_classes=21841)
    official = take_apart(published_state_dict(variant, 21841), "auto").backbone
    parameters = {
        name: item.tensor for name, item in official.items() if not name.endswith(("position_index", "attn_mask"))
    }
    assert shapes_of(FORMATS["timm"].from_official(parameters)) == shapes_of(reference.state_dict())


@torch.no_grad()
def test_the_maps_of_official_weights_are_timms_with_the_same_values() -> None:
    timm = pytest.importorskip("timm")
    sizes = {"embed_dim": WIDTH, "depths": DEPTHS, "num_heads": HEADS, "window_size": 2}
    reference = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, num_classes=5, **sizes).eval()
    state = {
        key: value / value[0].numel() ** 0.5 if value.ndim > 1 and "table" not in key else value
        for key, value in official_classifier(window_size=2).items()
    }
    # Renamed by hand, so that our tables are not compared with themselves.
    renamed = {}
    for key, value in state.items():
        words = key.split(".")
        if words[2:3] == ["downsample"]:
            words[1] = str(int(words[1]) + 1)
        if words[0] == "head":
            words.insert(1, "fc")
        if words[-1] not in ("relative_position_index", "attn_mask"):
            renamed[".".join(words)] = value
    reference.load_state_dict(renamed, strict=True)
    model = SwinTransformer(WIDTH, DEPTHS, HEADS, 2).eval()
    report = load_weights(model, {"model": state})
    assert report.format == "official"
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    theirs = reference.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
    for ours, their in zip(model(images), theirs, strict=True):
        wanted = nn.functional.layer_norm(their.permute(0, 2, 3, 1), their.shape[1:2]).permute(0, 3, 1, 2)
        assert (ours - wanted).norm() <= 1e-5 * wanted.norm()
