"""Weights carried over from each reference implementation give its feature maps.

The reference models are tiny; every parameter is random, norms and bias tables included: none can be left out or
swapped unseen. torchvision, timm and transformers share our semantics where every map is whole windows and larger than
one: 256 pixels with windows of 4 make maps of 64, 32, 16 and 8. mmdet shares them at any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.random_values import randomised
from swin_dense.backbones.swin import SwinTransformer
from swin_dense.weights import LoadReport, load_weights

EMBED_DIM, DEPTHS, HEADS, WINDOW = 24, (1, 1, 2, 1), (1, 2, 4, 8), 4


def our_backbone(**options: object) -> SwinTransformer:
    return randomised(SwinTransformer(EMBED_DIM, DEPTHS, HEADS, WINDOW, **options), seed=1)


def plain_output_norms(model: SwinTransformer) -> None:
    """The output norms of a new model: a reference that has none is compared after such a norm."""
    for index in model.out_indices:
        model.get_submodule(f"norm{index}").reset_parameters()


def images(height: int = 256, width: int = 256, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(2))


def normalised(maps: Sequence[Tensor]) -> list[Tensor]:
    return [nn.functional.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2) for x in maps]


def assert_close(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    for our, their in zip(ours, theirs, strict=True):
        assert our.shape == their.shape
        assert (our - their).norm() <= 1e-5 * their.norm()


def without_output_norms(report: LoadReport) -> bool:
    return {note.name for note in report.missing} == {
        f"norm{i}.{leaf}" for i in range(4) for leaf in ("weight", "bias")
    }


@torch.no_grad()
def test_torchvision() -> None:
    from torchvision.models.swin_transformer import SwinTransformer as Reference

    reference = Reference([4, 4], EMBED_DIM, DEPTHS, HEADS, [WINDOW, WINDOW], stochastic_depth_prob=0.0, num_classes=10)
    randomised(reference, seed=3)
    model = our_backbone()
    plain_output_norms(model)
    report = load_weights(model, reference.state_dict())
    assert report.format == "torchvision" and without_output_norms(report)
    maps, tokens = [], images()
    for index, layer in enumerate(reference.features):
        tokens = layer(tokens)
        if index % 2 == 1:
            maps.append(tokens.permute(0, 3, 1, 2))
    assert_close(model(images()), normalised(maps))


@torch.no_grad()
@pytest.mark.parametrize("features_only", [False, True])
def test_timm(features_only: bool) -> None:
    timm = pytest.importorskip("timm")
    reference = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=256,
        embed_dim=EMBED_DIM,
        depths=DEPTHS,
        num_heads=HEADS,
        window_size=WINDOW,
        features_only=features_only,
    )
    randomised(reference, seed=4)
    model = our_backbone()
    plain_output_norms(model)
    report = load_weights(model, reference.state_dict())
    assert report.format == "timm" and without_output_norms(report)
    if features_only:
        maps = [x.permute(0, 3, 1, 2) for x in reference(images())]
    else:
        maps = reference.forward_intermediates(images(), intermediates_only=True, output_fmt="NCHW")
    assert_close(model(images()), normalised(maps))


class TestTransformers:
    @pytest.fixture(scope="class")
    def config(self) -> object:
        transformers = pytest.importorskip("transformers")
        return transformers.SwinConfig(
            image_size=256,
            embed_dim=EMBED_DIM,
            depths=list(DEPTHS),
            num_heads=list(HEADS),
            window_size=WINDOW,
            use_absolute_embeddings=True,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )

    @torch.no_grad()
    @pytest.mark.parametrize("saved", [False, True], ids=["names of the module", "names of the file"])
    def test_backbone(self, config: object, saved: bool, tmp_path: Path) -> None:
        from transformers import SwinBackbone

        reference = randomised(SwinBackbone(config), seed=5)
        if saved:
            reference.save_pretrained(tmp_path)
        model = our_backbone(absolute_position_embedding=True, pretrain_image_size=256)
        report = load_weights(model, tmp_path / "model.safetensors" if saved else reference.state_dict())
        assert report.format == "huggingface" and not report.missing
        assert_close(model(images()), reference(images()).feature_maps)

    @torch.no_grad()
    @pytest.mark.parametrize("task", ["SwinModel", "SwinForImageClassification", "SwinForMaskedImageModeling"])
    def test_other_classes(self, config: object, task: str) -> None:
        import transformers

        reference = randomised(getattr(transformers, task)(config), seed=6)
        model = our_backbone(absolute_position_embedding=True, pretrain_image_size=256)
        plain_output_norms(model)
        report = load_weights(model, reference.state_dict())
        assert report.format == "huggingface" and without_output_norms(report)
        body = reference if task == "SwinModel" else reference.swin
        outputs = body(images(), output_hidden_states=True, output_hidden_states_before_downsampling=True)
        assert_close(model(images()), normalised(outputs.reshaped_hidden_states[-4:]))

    @torch.no_grad()
    def test_the_backbone_of_a_segmenter(self, config: object) -> None:
        from transformers import UperNetConfig, UperNetForSemanticSegmentation

        reference = randomised(
            UperNetForSemanticSegmentation(UperNetConfig(backbone_config=config, hidden_size=8)), seed=7
        )
        model = our_backbone(absolute_position_embedding=True, pretrain_image_size=256)
        report = load_weights(model, reference.state_dict())
        beside = {note.name.split(".")[0] for note in report.skipped if "backbone alone" in note.reason}
        assert beside == {"decode_head", "auxiliary_head"} and not report.missing
        assert_close(model(images()), reference.backbone(images()).feature_maps)


class TestOpenMMLab:
    def reference(self, seed: int) -> nn.Module:
        from mmdet.models.backbones.swin import SwinTransformer as Reference

        model = Reference(embed_dims=EMBED_DIM, depths=DEPTHS, num_heads=HEADS, window_size=WINDOW, drop_path_rate=0.0)
        return randomised(model, seed)

    @torch.no_grad()
    @pytest.mark.parametrize("size", [(97, 130), (33, 500), (256, 256)])
    def test_backbone(self, size: tuple[int, int]) -> None:
        reference, model = self.reference(seed=8), our_backbone()
        report = load_weights(model, reference.state_dict())
        assert report.format == "openmmlab" and not report.missing
        assert_close(model(images(*size, batch=2)), reference(images(*size, batch=2)))

    def test_segmentation_backbones_have_the_same_names(self) -> None:
        from mmseg.models.backbones.swin import SwinTransformer as Segmentation

        segmentation = Segmentation(embed_dims=EMBED_DIM, depths=DEPTHS, num_heads=HEADS, window_size=WINDOW)
        shapes = {key: value.shape for key, value in segmentation.state_dict().items()}
        assert shapes == {key: value.shape for key, value in self.reference(seed=8).state_dict().items()}

    @torch.no_grad()
    def test_whole_detector(self) -> None:
        reference = randomised(self.detector(self.reference(seed=9)), seed=10)
        model = self.detector(our_backbone())
        report = load_weights(model, {"meta": {}, "state_dict": reference.state_dict()})
        assert report.format == "openmmlab" and not report.missing
        assert {note.reason for note in report.skipped} == {"recomputed"}
        assert_close(model.extract_feat(images(97, 130)), reference.extract_feat(images(97, 130)))
        around = {key: value for key, value in reference.state_dict().items() if not key.startswith("backbone.")}
        assert {name.split(".")[0] for name in around} == {"neck", "rpn_head", "roi_head"}
        assert all(torch.equal(model.state_dict()[key], value) for key, value in around.items())

    @torch.no_grad()
    def test_a_resnet_of_torchvision_in_a_detector(self) -> None:
        """Its names are those of mmdet's ResNets."""
        from mmdet.models.backbones import ResNet
        from torchvision.models import resnet18
        from torchvision.models.feature_extraction import create_feature_extractor

        reference = randomised(resnet18(), seed=11)
        model = self.detector(ResNet(18, norm_eval=True))
        report = load_weights(model, reference.state_dict())
        assert {note.name for note in report.skipped} == {"fc.weight", "fc.bias"}
        maps = create_feature_extractor(reference, [f"layer{i}" for i in range(1, 5)])(images(97, 130))
        assert_close(model.backbone(images(97, 130)), tuple(maps.values()))

    def detector(self, backbone: nn.Module) -> nn.Module:
        import mmdet
        from mmdet.registry import MODELS
        from mmengine.config import Config

        config = Config.fromfile(Path(mmdet.__file__).parent / ".mim/configs/_base_/models/mask-rcnn_r50_fpn.py").model
        config.backbone.init_cfg = None
        config.neck.in_channels = [EMBED_DIM * 2**i for i in range(4)]
        config.roi_head.bbox_head.fc_out_channels = 16
        model = MODELS.build({**config, "_scope_": "mmdet"})
        model.backbone = backbone
        model.eval()
        return model
