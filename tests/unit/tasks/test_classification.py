"""A classifier from its config: model dicts, heads that are used again, and messages for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from swin_dense.backbones import create_classifier
from swin_dense.config import load_config
from swin_dense.errors import ConfigError, DataError, WeightsError
from swin_dense.tasks import task_named
from swin_dense.tasks.classification import TASK, build_classifier, with_mapped_head
from swin_dense.tasks.training import load_initial_weights
from swin_dense.weights import save_weights
from swin_dense.weights.convert import convert_state_dict

MODEL = {"type": "ImageClassifier", "backbone": {"type": "SwinDense", "variant": "swin_nano"}}


def test_a_model_dict_gives_a_classifier_of_the_classes_of_the_data() -> None:
    backbone = {**MODEL["backbone"], "drop_path_rate": 0.3}
    network = build_classifier({**MODEL, "backbone": backbone, "head": {"num_classes": 1000}}, 7)
    assert network.head.out_features == 7 and network.layers[3].blocks[1].drop_path == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "ImageClasifier"}, 'model.type: a classification model has type="ImageClassifier"'),
        ({"neck": {}}, 'model: unknown key "neck"'),
        ({"backbone": {"type": "ResNet"}}, 'model.backbone.type: a classifier has type="SwinDense"'),
        ({"backbone": {"type": "SwinDense", "variant": "swin_tinny"}}, 'did you mean "swin_tiny"'),
        ({"backbone": {**MODEL["backbone"], "drop_rate": 1}}, 'no option "drop_rate"; did you mean "drop_path_rate"'),
        ({"head": {"classes": 3}}, 'model.head: unknown key "classes"'),
        ({"backbone": None}, "needs backbone="),
    ],
)
def test_a_wrong_model_dict_is_answered_with_its_key(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_classifier({**MODEL, **changes}, 7)


@pytest.mark.parametrize(
    ("task", "kind", "variant", "message"),
    [
        ("classification", "ImageClassifier", "swin3d_tiny", "of images has windows of .* such as swin_tiny"),
        ("video", "VideoClassifier", "swin_tiny", "of videos has windows of .* such as swin3d_tiny"),
    ],
)
def test_a_backbone_for_the_other_kind_of_input_is_refused(task: str, kind: str, variant: str, message: str) -> None:
    model = {"type": kind, "backbone": {"type": "SwinDense", "variant": variant}}
    with pytest.raises(ConfigError, match=message):
        task_named(task).build_model(model, 7)


@pytest.mark.parametrize("style", ["swin-dense", "timm", "torchvision", "huggingface"])
def test_a_head_is_used_again_through_a_class_map_in_every_format(tmp_path: Path, style: str) -> None:
    trained = create_classifier("swin_nano", 11)
    torch.nn.init.normal_(trained.head.bias)
    save_weights(convert_state_dict(trained.state_dict(), style)[0], tmp_path / "trained.safetensors")
    (tmp_path / "map.txt").write_text("3\n10\n0\n")
    config = load_config("swin-nano_shapes", {"data.root": str(tmp_path), "data.class_map": "map.txt"})
    network = TASK.build_network(config.model, 3)
    load_initial_weights(network, tmp_path / "trained.safetensors", config, ["a", "b", "c"])
    assert torch.equal(network.head.weight, trained.head.weight[[3, 10, 0]])
    assert torch.equal(network.head.bias, trained.head.bias[[3, 10, 0]])
    assert torch.equal(network.norm.weight, trained.norm.weight)


def test_a_wrong_class_map_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.txt"
    tensors = dict(create_classifier("swin_nano", 4).state_dict())
    for text in ("4", "-1", "", "cat"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"map\.txt"):
            with_mapped_head(tensors, path)
    path.write_text("0")
    with pytest.raises(WeightsError, match="no head"):
        with_mapped_head({name: one for name, one in tensors.items() if "head" not in name}, path)
