"""The Swin Transformers that ours is measured beside, each as a function from images to the maps of its four stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from swin_dense.backbones import VARIANTS, SwinVariant, create_backbone
from swin_dense.backbones.windows import fitted_window
from swin_dense.errors import ConfigError, nearest
from swin_dense.weights import load_weights

OURS = "ours"
VIDEO_PATCH = 2
"""Frames of a patch, in every variant of videos."""

Maps = Sequence[Tensor]


@dataclass(frozen=True)
class Contestant:
    """A model, how to get its four maps (B, C, H, W) from images, and whether each has passed an output norm."""

    model: nn.Module
    maps: Callable[[Tensor], Maps]
    normed: bool


def installed_peers(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Those of `names` that can take part, and why the others cannot."""
    absent = [name for name in names if find_spec(name) is None]
    reason = "not installed; pip install 'swin-dense[benchmark]' brings all peers"
    reasons = dict.fromkeys(absent, reason) | {"mmaction": "not installed; pip install --no-deps mmaction2 einops"}
    return [name for name in names if name not in absent], {name: reasons[name] for name in absent}


def check_names(settings: object, **known: Collection[str]) -> None:
    """Refuses names in lists of settings that are not among the known ones."""
    for option, names in known.items():
        for name in getattr(settings, option):
            if name not in names:
                raise ConfigError(f'--{option}: there is no "{name}"; {nearest(name, names)}')


def checked_size(variant: str) -> tuple[int, ...]:
    """Where every map is whole windows, and larger than one: there all peers compute the same.

    Of clips the last maps are one window, and time is a window and one token.
    """
    window = VARIANTS[variant].window
    if len(window) == 3:
        return VIDEO_PATCH * (window[0] + 1), 32 * window[1], 32 * window[2]
    return 2 * 32 * window[0], 2 * 32 * window[1]


def build(name: str, variant: str, sizes: Sequence[tuple[int, ...]]) -> Contestant:
    """A contestant with random weights, on the default device, made for images or clips of these sizes."""
    shape = VARIANTS[variant]
    if len(shape.window) == 3 and name not in (OURS, "torchvision", "mmaction"):
        raise ConfigError(f"{name} has no Swin of videos")
    if len(shape.window) == 2 and name == "mmaction":
        raise ConfigError(f"{name} has no Swin of images")
    if shape.version == 2 and name == "mmdet":
        raise ConfigError(f"{name} has no Swin of version 2")
    return {OURS: _ours, **PEERS}[name](variant, sizes)


def difference(peer: Contestant, variant: str, device: torch.device) -> float:
    """Largest relative difference of a map of the peer from ours with the peer's weights, of one image in float32.

    The image is of `checked_size`. torchvision's and timm's maps come without output norms; they are normalised before
    they are compared.
    """
    _randomise(peer.model)
    ours = create_backbone(variant)
    load_weights(ours, {key: value.cpu() for key, value in peer.model.state_dict().items()})
    ours.to(device).eval()
    peer.model.eval()
    images = torch.randn(1, 3, *checked_size(variant), device=device)
    differences = []
    with torch.inference_mode():
        for our, their in zip(ours(images), peer.maps(images), strict=True):
            if not peer.normed:
                tokens = their.movedim(1, -1)
                their = functional.layer_norm(tokens, tokens.shape[-1:]).movedim(-1, 1)
            differences.append(float((our - their).norm() / their.norm()))
    return max(differences)


def _ours(variant: str, sizes: Sequence[tuple[int, ...]]) -> Contestant:
    model = create_backbone(variant)
    return Contestant(model, model, normed=True)


def _torchvision(variant: str, sizes: Sequence[tuple[int, ...]]) -> Contestant:
    """The classifier, its stages read out one by one."""
    shape = VARIANTS[variant]
    is_video = len(shape.window) == 3
    library = import_module("torchvision.models.video" if is_video else "torchvision.models").swin_transformer
    second = shape.version == 2
    parts = {"block": library.SwinTransformerBlockV2, "downsample_layer": library.PatchMergingV2} if second else {}
    model: Any = (library.SwinTransformer3d if is_video else library.SwinTransformer)(
        patch_size=[VIDEO_PATCH, 4, 4] if is_video else [4, 4],
        embed_dim=shape.embed_dim,
        depths=list(shape.depths),
        num_heads=list(shape.num_heads),
        window_size=list(shape.window),
        stochastic_depth_prob=0.0,
        **parts,
    )

    def maps(images: Tensor) -> Maps:
        found = []
        tokens = model.patch_embed(images) if is_video else images
        for index, layer in enumerate(model.features):
            tokens = layer(tokens)
            if index % 2 != is_video:  # that of images begins with the patch embedding
                found.append(tokens.movedim(-1, 1))
        return found

    return Contestant(model, maps, normed=False)


def _timm(variant: str, sizes: Sequence[tuple[int, ...]]) -> Contestant:
    """The feature extractor, made for the image size; with masks made at each call where sizes vary."""
    shape = VARIANTS[variant]
    model = import_module("timm").create_model(
        "swin_tiny_patch4_window7_224" if shape.version == 1 else "swinv2_tiny_window8_256",
        features_only=True,
        img_size=sizes[0],
        strict_img_size=len(sizes) == 1,
        drop_path_rate=0.0,
        embed_dim=shape.embed_dim,
        depths=shape.depths,
        num_heads=shape.num_heads,
        window_size=shape.window_size,
    )
    return Contestant(model, lambda images: [one.permute(0, 3, 1, 2) for one in model(images)], normed=False)


def _transformers(variant: str, sizes: Sequence[tuple[int, ...]]) -> Contestant:
    shape = VARIANTS[variant]
    library = import_module("transformers")
    options: dict[str, Any] = {"out_features": [f"stage{number + 1}" for number in range(len(shape.depths))]}
    if shape.version == 2:  # made for one size, but computes at any
        options["image_size"] = max(map(max, sizes))
    config = (library.SwinConfig if shape.version == 1 else library.Swinv2Config)(
        embed_dim=shape.embed_dim,
        depths=list(shape.depths),
        num_heads=list(shape.num_heads),
        window_size=shape.window_size,
        drop_path_rate=0.0,
        **options,
    )
    model = (library.SwinBackbone if shape.version == 1 else library.Swinv2Backbone)(config)
    return Contestant(model, lambda images: list(model(images).feature_maps), normed=shape.version == 1)


def _mmdet(variant: str, sizes: Sequence[tuple[int, ...]]) -> Contestant:
    from swin_dense.openmmlab.peers import mmdet_backbone

    model = mmdet_backbone(VARIANTS[variant])
    return Contestant(model, model, normed=True)


def _mmaction(variant: str, sizes: Sequence[tuple[int, ...]]) -> Contestant:
    from swin_dense.openmmlab.peers import mmaction_backbone

    model = mmaction_backbone(VARIANTS[variant])
    return Contestant(model, model, normed=True)


PEERS: dict[str, Callable[[str, Sequence[tuple[int, ...]]], Contestant]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
    "mmdet": _mmdet,
    "mmaction": _mmaction,
}
"""By the name of the package."""


def _randomise(model: nn.Module) -> None:
    """Gives norms and bias tables values that matter, so that a difference in them is seen."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "bias_table" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)


def products(variant: SwinVariant, batch: int, size: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """The matrix products of a forward pass: (B, M, K) by (B, K, N) for each, as (B, M, K, N).

    Padding that fills the last windows takes part in attention alone, as in the dense backbone.
    """
    patch = (VIDEO_PATCH, 4, 4)[-len(size) :]
    grid = [-(-side // step) for side, step in zip(size, patch, strict=True)]
    found = [(1, batch * math.prod(grid), 3 * math.prod(patch), variant.embed_dim)]
    for index, (depth, heads) in enumerate(zip(variant.depths, variant.num_heads, strict=True)):
        channels = variant.embed_dim * 2**index
        window = variant.window if len(grid) == 2 else fitted_window(grid, variant.window)[0]
        tokens, length = batch * math.prod(grid), math.prod(window)
        windows = batch * math.prod(-(-side // step) for side, step in zip(grid, window, strict=True))
        head = channels // heads
        found += depth * [
            (1, windows * length, channels, 3 * channels),
            (windows * heads, length, head, length),
            (windows * heads, length, length, head),
            (1, windows * length, channels, channels),
            (1, tokens, channels, 4 * channels),
            (1, tokens, 4 * channels, channels),
        ]
        if index < len(variant.depths) - 1:
            grid[-2:] = (-(-side // 2) for side in grid[-2:])
            found.append((1, batch * math.prod(grid), 4 * channels, 2 * channels))
    return found
