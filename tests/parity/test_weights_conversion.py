"""Weights converted between libraries: each library's own class takes them whole and computes the same; nothing is lost
on the way there and back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers.random_values import randomised
from helpers.small_swin import equal
from swin_dense.weights import FORMATS, convert_state_dict, convert_weights

WIDTH, DEPTHS, HEADS, WINDOW, CLASSES = 24, (1, 1, 2, 2), (1, 2, 4, 8), 4, 5
SIDE = 8 * 4 * WINDOW  # as published: eight windows along the first map, so that the last is one window

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def timm_classifier() -> nn.Module:
    timm = pytest.importorskip("timm")
    options = {"embed_dim": WIDTH, "depths": DEPTHS, "num_heads": HEADS, "window_size": WINDOW}
    return timm.create_model("swin_tiny_patch4_window7_224", img_size=SIDE, num_classes=CLASSES, **options)


def torchvision_classifier() -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        [4, 4], WIDTH, DEPTHS, HEADS, [WINDOW, WINDOW], stochastic_depth_prob=0.0, num_classes=CLASSES
    )


def huggingface_config(**options: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    sizes = {"embed_dim": WIDTH, "depths": list(DEPTHS), "num_heads": list(HEADS), "window_size": WINDOW}
    # Theirs defaults to 1e-5 in some norms; the other libraries' is that everywhere.
    return transformers.SwinConfig(image_size=SIDE, layer_norm_eps=1e-5, num_labels=CLASSES, **sizes, **options)


def huggingface_classifier() -> nn.Module:
    config = huggingface_config()
    from transformers import SwinForImageClassification

    return SwinForImageClassification(config)


CLASSIFIERS: dict[str, Callable[[], nn.Module]] = {
    "timm": timm_classifier,
    "torchvision": torchvision_classifier,
    "huggingface": huggingface_classifier,
}


def saved(model: nn.Module, format_name: str, folder: Path) -> Path:
    """The file that the library itself writes."""
    if format_name == "huggingface":
        model.save_pretrained(folder)
        return folder / "model.safetensors"
    torch.save(model.state_dict(), folder / "model.pth")
    return folder / "model.pth"


def logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        output = model(images)
    return output if isinstance(output, Tensor) else output.logits


def restored(format_name: str, path: Path) -> nn.Module:
    """The library's own class with the weights of a file, of which it must take every tensor and lack none."""
    if format_name != "huggingface":
        model = CLASSIFIERS[format_name]()
        model.load_state_dict(load_file(path), strict=True)
        return model.eval()
    from transformers import SwinForImageClassification

    huggingface_config().save_pretrained(path.parent)
    model, account = SwinForImageClassification.from_pretrained(path.parent, output_loading_info=True)
    assert not any(account[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@pytest.mark.parametrize("target", CLASSIFIERS)
@pytest.mark.parametrize("source", CLASSIFIERS)
def test_a_classifier_moves_between_libraries_and_computes_the_same(source: str, target: str, tmp_path: Path) -> None:
    model = randomised(CLASSIFIERS[source]())
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    original = saved(model, source, tmp_path)
    (tmp_path / "new").mkdir()
    report = convert_weights(original, tmp_path / "new/model.safetensors", target)
    assert (report.format, report.to) == (source, target)
    ours, theirs = logits(restored(target, tmp_path / "new/model.safetensors"), images), logits(model, images)
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def as_saved(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def official_classifier() -> dict[str, Tensor]:
    """Made of timm's by the published differences: where patch merging stands, the head's name, and the buffers."""
    return convert_state_dict(randomised(timm_classifier()).state_dict(), "official")[0]


@pytest.mark.parametrize("through", ["swin-dense", "official", "timm", "torchvision", "huggingface"])
@pytest.mark.parametrize("source", ["official", *CLASSIFIERS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_classifier_comes_back_bit_by_bit(source: str, through: str, dtype: torch.dtype, tmp_path: Path) -> None:
    if source == "official":
        state = official_classifier()
    elif source == "huggingface":
        state = as_saved(randomised(huggingface_classifier()), tmp_path)
    else:
        state = randomised(CLASSIFIERS[source]()).state_dict()
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    converted, report = convert_state_dict(state, through)
    back, _ = convert_state_dict(converted, source)
    assert report.format == source
    assert equal(back, state)
    assert all(back[key].dtype == value.dtype for key, value in state.items())


class TestTransformers:
    @pytest.mark.parametrize("task", ["SwinModel", "SwinBackbone", "SwinForMaskedImageModeling"])
    def test_every_class_comes_back_bit_by_bit_and_whole(self, task: str, tmp_path: Path) -> None:
        stages = {"out_features": [f"stage{i}" for i in range(1, 5)]} if task == "SwinBackbone" else {}
        config = huggingface_config(use_absolute_embeddings=True, **stages)
        import transformers

        model = randomised(getattr(transformers, task)(config))
        state = as_saved(model, tmp_path)
        converted, _ = convert_state_dict(state, "swin-dense")
        assert converted["absolute_pos_embed"].shape == (1, WIDTH, SIDE // 4, SIDE // 4)
        back, _ = convert_state_dict(converted, "huggingface")
        assert equal(back, state)

    def test_a_segmenter_comes_back_bit_by_bit(self, tmp_path: Path) -> None:
        config = huggingface_config(out_features=[f"stage{i}" for i in range(1, 5)])
        from transformers import UperNetConfig, UperNetForSemanticSegmentation

        options = {"hidden_size": 8, "auxiliary_channels": 6, "auxiliary_num_convs": 2, "auxiliary_concat_input": True}
        model = randomised(UperNetForSemanticSegmentation(UperNetConfig(backbone_config=config, **options)))
        state = as_saved(model, tmp_path)
        converted, report = convert_state_dict(state, "swin-dense")
        assert {"decode_head.conv_seg.bias", "auxiliary_head.conv_cat.bn.running_var"} < converted.keys()
        assert {"backbone.norm3.weight", "backbone.layers.0.blocks.0.attn.qkv.weight"} < converted.keys()
        assert not report.skipped and not report.added
        assert equal(convert_state_dict(converted, "huggingface")[0], state)


def test_every_format_takes_what_another_wrote() -> None:
    """A backbone goes the round through all formats and is the same at the end."""
    from helpers.small_swin import backbone

    first = {k: v for k, v in backbone(window_size=3).state_dict().items() if not k.startswith("norm")}
    state = first
    for name in ("official", "timm", "openmmlab", "huggingface", "torchvision", "swin-dense"):
        state, report = convert_state_dict(state, name)
        assert name in FORMATS and not [
            note for note in report.skipped if "relative_position" not in note.name and "attn_mask" not in note.name
        ]
    assert equal(state, first)
