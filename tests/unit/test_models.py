"""Whole models with their weights: which classes these tell, and what their numbers mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from swin_dense.config import Config, load_config
from swin_dense.data.shapes import CLASS_NAMES, write_shapes
from swin_dense.errors import ConfigError, DataError, WeightsError
from swin_dense.models import labels_of, load, load_whole
from swin_dense.tasks.base import Labels
from swin_dense.weights import save_weights

DEMOS = Path(__file__).resolve().parents[2] / "configs" / "demo"


def settings(task: str, data: Path | str) -> Config:
    name = {"detection": "mask-rcnn_swin-nano_shapes.py", "segmentation": "upernet_swin-nano_shapes.py"}[task]
    return load_config(DEMOS / name, [f"data.root={str(data)!r}"])


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2))


def checkpoint(path: Path, network: nn.Module, classes: tuple[str, ...] | None) -> Path:
    """As mmdet writes it."""
    meta = {} if classes is None else {"meta": {"dataset_meta": {"classes": classes}}}
    torch.save({**meta, "state_dict": network.state_dict()}, path)
    return path


def ours(path: Path, network: nn.Module, **labels: Any) -> Path:
    save_weights(network, path, metadata={name: json.dumps(value) for name, value in labels.items()})
    return path


def test_weights_of_other_classes_are_refused_in_every_format(network: nn.Module, tmp_path: Path) -> None:
    for weights in (
        checkpoint(tmp_path / "w.pth", network, ("cat", "dog")),
        ours(tmp_path / "w.safetensors", network, class_names=["cat", "dog"]),
    ):
        load_whole(network, weights, ("cat", "dog"))
        for other in (("dog", "cat"), ("cat", "dog", "bird")):
            with pytest.raises(WeightsError, match=f"{weights.name} was trained on cat, dog; the data has"):
                load_whole(network, weights, other)
    load_whole(network, checkpoint(tmp_path / "silent.pth", network, None), ("dog", "cat"))


def test_the_name_of_published_weights_that_is_no_file_is_answered_with_how_to_fetch_them() -> None:
    with pytest.raises(WeightsError, match="there is no file swin_t; .* swin-dense weights fetch swin_t, which"):
        load(settings("detection", "absent"), "swin_t")


@pytest.mark.parametrize("name", ["runs/" + "a" * 5000, "a" * 5000 + "/run", "runs/nul\0", "runs/mine/best.ckpt"])
def test_what_is_no_run_folder_is_said_to_be_none(name: str) -> None:
    with pytest.raises(ConfigError, match="no such run folder"):
        load(name)


def test_weights_that_name_no_classes_in_json_are_refused(network: nn.Module, tmp_path: Path) -> None:
    save_weights(network, tmp_path / "w.safetensors", metadata={"class_names": "cat, dog"})
    with pytest.raises(WeightsError, match="not a list of texts"):
        load_whole(network, tmp_path / "w.safetensors", ("cat", "dog"))
    with pytest.raises(WeightsError, match="not a list of texts"):
        labels_of(settings("detection", "absent"), tmp_path / "w.safetensors")


def test_labels_beside_the_weights_need_no_data(network: nn.Module, tmp_path: Path) -> None:
    labels = {"class_names": ["cat", "dog"], "category_ids": [17, 18]}
    weights = ours(tmp_path / "w.safetensors", network, **labels)
    assert labels_of(settings("detection", "absent"), weights) == Labels(("cat", "dog"), (17, 18))


def test_a_detector_refuses_weights_of_a_segmenter(network: nn.Module, tmp_path: Path) -> None:
    weights = ours(tmp_path / "w.safetensors", network, class_names=["wall", "sky"])
    with pytest.raises(WeightsError, match="without category ids, as weights of semantic segmentation"):
        labels_of(settings("detection", "absent"), weights)
    assert labels_of(settings("segmentation", "absent"), weights) == Labels(("wall", "sky"))


def test_labels_come_from_the_data_where_the_weights_do_not_tell(network: nn.Module, tmp_path: Path) -> None:
    shapes = write_shapes(tmp_path / "shapes", train=1, val=1, size=64)
    weights = checkpoint(tmp_path / "w.pth", network, ("cat", "dog"))
    labels = labels_of(settings("detection", shapes), weights)
    assert labels == Labels(tuple(CLASS_NAMES), tuple(range(1, 7)))


def test_data_that_is_missing_is_asked_for_where_the_weights_do_not_tell(network: nn.Module, tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "w.pth", network, ("cat", "dog"))
    with pytest.raises(
        DataError, match="absent/(.|\\n)*w.pth does not hold the category ids .* name its folder: data="
    ):
        labels_of(settings("detection", "absent"), weights)
    assert labels_of(settings("segmentation", "absent"), weights) == Labels(("cat", "dog"))
    with pytest.raises(DataError, match="does not hold the names of its classes"):
        labels_of(settings("segmentation", "absent"), checkpoint(weights, network, None))


@pytest.mark.parametrize("recipe", ["swin3d-t_32x2_k400", "swin-t_300e_in1k"])
def test_a_class_list_says_what_published_weights_tell_without_their_data(
    network: nn.Module, tmp_path: Path, recipe: str
) -> None:
    weights, listed = checkpoint(tmp_path / "w.pth", network, None), tmp_path / "names.txt"
    with pytest.raises(DataError, match=r"or a file of one class per line: \*\*{\"data.classes\": 'FILE'}"):
        labels_of(load_config(recipe), weights)
    listed.write_text("air drumming\njuggling\n")
    assert labels_of(load_config(recipe, {"data.classes": str(listed)}), weights) == Labels(
        ("air drumming", "juggling")
    )


@pytest.mark.filterwarnings("ignore:.*these are random")
@pytest.mark.parametrize("threshold", [50, -0.1, [0.5]])
def test_a_threshold_that_is_no_score_is_refused_before_any_image_is_read(threshold: Any) -> None:
    with pytest.raises(ConfigError, match="threshold=.*: it must be a score from 0 to 1"):
        load(DEMOS / "mask-rcnn_swin-nano_shapes.py", device="cpu").predict("absent.png", threshold=threshold)


def test_a_variant_has_no_keys_to_change_and_the_message_says_what_takes_options() -> None:
    with pytest.raises(
        ConfigError, match=r'no config keys to change; .*create_backbone\("swin_nano", ...\) takes options'
    ):
        load("swin_nano", overrides={"in_channels": 4})
