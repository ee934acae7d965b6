"""The command `visualize-features`, and what its heat maps are made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.commands import command
from swin_dense.backbones import VARIANTS, SwinTransformer, SwinVariant
from swin_dense.backbones.plain import PlainSwin
from swin_dense.config import load_config
from swin_dense.errors import ConfigError, DataError
from swin_dense.models.parts import load_inspected
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.openmmlab.segmentation import OpenMMLabSegmenter
from swin_dense.visualize.inspection import InspectedModel, grad_cam, visualize_features
from swin_dense.weights import save_weights

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "demo"
SMALL = SwinVariant(8, (2, 1, 1, 3), (1, 1, 2, 2), window_size=4)
SMALL_BACKBONE = {"embed_dim": 8, "depths": (2, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
IMAGE = torch.randint(0, 256, (3, 45, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))


@pytest.fixture(autouse=True)
def small_variant(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(VARIANTS, "small", SMALL)
    yield


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize("version", [1, 2])
def test_draws_every_picture_of_the_stages_asked_for(
    version: int, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "small", replace(SMALL, version=version))
    words = ("--stage", "1", "--stage", "4", "--short-side", "48", "--random-weights", "--json")
    assert command("visualize-features", "small", str(picture), "--output", str(tmp_path / "out"), *words) == 0
    record = json.loads(capsys.readouterr().out)
    names = {"pca", "gradcam", "attention_stage1", "bias_stage1", "attention_stage4", "bias_stage4"}
    assert {Path(name).stem for name in record["files"]} == names
    assert {path.stem for path in (tmp_path / "out").iterdir()} == names
    assert record["gradcam"] == "length of the mean feature vector of the last stage"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--stage", "5", "--random-weights"), "stage 5: the backbone returns stages 1, 2, 3, 4"),
        (("--window", "9,0", "--random-weights"), "window 9,0: stage 1"),
        (("--window", "9", "--random-weights"), "--window takes ROW,COLUMN"),
        (("--class", "cat", "--random-weights"), "small is a backbone alone and knows no classes"),
        ((), "--random-weights"),
    ],
)
def test_a_mistake_is_one_message(
    words: tuple[str, ...], message: str, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        command(
            "visualize-features", "small", str(picture), "--short-side", "48", "--output", str(tmp_path / "out"), *words
        )
        == 2
    )
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_heat_is_gradient_times_activation_of_each_place() -> None:
    model = load_inspected("small", random_weights=True)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    block = model.backbone.blocks(2)[-1]
    kept: list[torch.Tensor] = []

    def keep(_block: torch.nn.Module, _inputs: object, tokens: torch.Tensor) -> None:
        tokens.retain_grad()
        kept.append(tokens)

    with block.register_forward_hook(keep):
        model.backbone(model.preprocess(image[None]))[-1].mean((2, 3)).norm().backward()
    (tokens,) = kept
    assert tokens.grad is not None
    heat = (tokens.grad * tokens).relu().sum(-1)[0].detach()
    _, (found,) = grad_cam(model, image, [block])
    assert found.shape == (64, 96)
    assert found.min() >= 0 and found.max() == pytest.approx(1, abs=1e-3)
    # They are enlarged from 4 x 6 cells; the order of the cells by heat stays.
    coarse = torch.nn.functional.interpolate(torch.from_numpy(found)[None, None], size=heat.shape, mode="area")[0, 0]
    assert int(coarse.argmax()) == int(heat.argmax())
    assert float(torch.corrcoef(torch.stack([coarse.flatten(), heat.flatten()]))[0, 1]) > 0.95


def small(name: str) -> Any:
    config = load_config(CONFIGS / name)
    config.model["backbone"].update(SMALL_BACKBONE)
    return config


def test_a_detector_is_asked_for_its_surest_object_or_that_of_a_class(tmp_path: Path) -> None:
    config, path = small("mask-rcnn_swin-nano_shapes.py"), tmp_path / "detector.safetensors"
    torch.manual_seed(5)
    network = OpenMMLabDetector(config.model, 2).network
    save_weights(
        network, path, metadata={"class_names": json.dumps(["mountain lion", "snow leopard"]), "category_ids": "[1, 2]"}
    )
    model = load_inspected(config, path)
    target, maps = grad_cam(model, IMAGE, [model.backbone.blocks(index)[-1] for index in (0, 3)])
    assert target in ("score of the surest mountain lion", "score of the surest snow leopard")
    for heat in maps:
        assert heat.shape == (45, 70)
        assert heat.min() >= 0 and heat.max() > 0
    with pytest.raises(ConfigError, match='did you mean "mountain lion"?'):
        grad_cam(load_inspected(config, path, class_name="mountain lions"), IMAGE, [])


def test_a_segmenter_is_asked_for_the_area_of_its_largest_class() -> None:
    config = small("upernet_swin-nano_shapes.py")
    model = load_inspected(config, random_weights=True)
    torch.manual_seed(0)
    segmenter = OpenMMLabSegmenter(config.model, config.model["decode_head"]["num_classes"]).eval()
    with torch.no_grad():
        padded = torch.nn.functional.pad(IMAGE[None], (0, 26, 0, 19))
        largest = int(segmenter.logits(padded).argmax(1).flatten().mode().values)
    target, (heat,) = grad_cam(model, IMAGE, [model.backbone.blocks(3)[-1]])
    assert target == f"logits where it sees class {largest + 1}"
    assert heat.shape == (45, 70) and heat.max() > 0


def test_a_strip_too_long_to_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="30000 x 1 pixels is too long to be drawn"):
        visualize_features(
            load_inspected("small", random_weights=True), torch.zeros(3, 1, 30_000, dtype=torch.uint8), tmp_path
        )


def test_a_backbone_without_position_biases_has_no_pictures_of_them(tmp_path: Path) -> None:
    backbone = SwinTransformer(8, (2, 1), (1, 2), 4, out_indices=(0, 1), relative_position_bias=False).eval()
    record = visualize_features(InspectedModel(PlainSwin(backbone), torch.Tensor.float), IMAGE, tmp_path, short_side=48)
    names = {"pca", "gradcam", "attention_stage1", "attention_stage2"}
    assert {Path(name).stem for name in record["files"]} == names == {path.stem for path in tmp_path.iterdir()}
