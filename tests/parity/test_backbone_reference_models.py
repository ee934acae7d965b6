"""The backbone equals the Swin of mmdet, torchvision, timm and transformers with the same random weights.

mmdet shares our semantics at every size. The classification models share them where every map is whole windows and
larger than one window: 448 pixels with windows of 7 make maps of 112, 56, 28 and 14.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers.random_values import randomised
from swin_dense.backbones import VARIANTS, SwinTransformer, create_backbone
from swin_dense.weights import load_weights


def random_images(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(2))


def normed(maps: Sequence[Tensor]) -> list[Tensor]:
    """What an output norm with initial values makes of the maps of a reference that has none."""
    tokens = [x.permute(0, 2, 3, 1) for x in maps]
    return [functional.layer_norm(x, x.shape[-1:]).permute(0, 3, 1, 2) for x in tokens]


def assert_same_maps(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    assert len(ours) == len(theirs) == 4
    for our, their in zip(ours, theirs, strict=True):
        assert our.shape == their.shape
        assert (our - their).norm() <= 1e-5 * their.norm()


class TestMmdet:
    @pytest.fixture(scope="class")
    def pair(self) -> tuple[SwinTransformer, nn.Module]:
        from mmdet.models.backbones.swin import SwinTransformer as Reference

        reference = randomised(Reference(drop_path_rate=0.0))
        model = create_backbone("swin_tiny").eval()
        assert not load_weights(model, reference.state_dict(), format="openmmlab").missing
        return model, reference

    @pytest.mark.parametrize("shape", [(1, 97, 130), (2, 250, 310), (1, 800, 1333)])
    def test_maps(self, pair: tuple[SwinTransformer, nn.Module], shape: tuple[int, int, int]) -> None:
        model, reference = pair
        images = random_images(*shape)
        with torch.inference_mode():
            assert_same_maps(model(images), reference(images))

    def test_gradients(self, pair: tuple[SwinTransformer, nn.Module]) -> None:
        model, reference = pair
        images = random_images(2, 97, 130)
        cotangents = [torch.randn(x.shape, generator=torch.Generator().manual_seed(3)) for x in model(images)]
        for each in (model, reference):
            torch.autograd.backward(each(images), cotangents)
        # The same tables that carry weights over carry the gradients over.
        theirs = create_backbone("swin_tiny")
        load_weights(theirs, {name: x.grad for name, x in reference.named_parameters()}, format="openmmlab")
        for name, wanted in theirs.named_parameters():
            found = model.get_parameter(name).grad
            assert found is not None and wanted.norm() > 0, name
            assert (found - wanted).norm() <= 1e-5 * wanted.norm(), name


@pytest.mark.parametrize(("variant", "builder"), [("swin_tiny", "swin_t"), ("swin_base", "swin_b")])
def test_torchvision(variant: str, builder: str) -> None:
    import torchvision

    reference = randomised(getattr(torchvision.models, builder)())
    model = create_backbone(variant).eval()
    load_weights(model, reference.state_dict(), format="torchvision")
    tokens, maps = random_images(1, 448, 448), []
    with torch.inference_mode():
        ours = model(tokens)
        for index, layer in enumerate(reference.features):
            tokens = layer(tokens)
            if index % 2:
                maps.append(tokens.permute(0, 3, 1, 2))
    assert_same_maps(ours, normed(maps))


def test_timm() -> None:
    timm = pytest.importorskip("timm")
    reference = randomised(timm.create_model("swin_tiny_patch4_window7_224", img_size=448, features_only=True))
    model = create_backbone("swin_tiny").eval()
    load_weights(model, reference.state_dict(), format="timm")
    images = random_images(1, 448, 448)
    with torch.inference_mode():
        assert_same_maps(model(images), normed([x.permute(0, 3, 1, 2) for x in reference(images)]))


def test_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    variant = VARIANTS["swin_tiny"]
    options: dict[str, Any] = {"embed_dim": variant.embed_dim, "depths": list(variant.depths)}
    config = transformers.SwinConfig(
        **options, num_heads=list(variant.num_heads), window_size=7, out_features=[f"stage{i}" for i in range(1, 5)]
    )
    reference = randomised(transformers.SwinBackbone(config))
    model = create_backbone("swin_tiny").eval()
    assert not load_weights(model, reference.state_dict(), format="huggingface").missing
    images = random_images(1, 448, 448)
    with torch.inference_mode():
        assert_same_maps(model(images), reference(images).feature_maps)
