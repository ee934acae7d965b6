"""Every shipped config builds, follows the official recipe, and has the published size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swin_dense.build.detection import train_transform
from swin_dense.cli import main
from swin_dense.config import load_config
from swin_dense.openmmlab.detection import OpenMMLabDetector

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ALL = sorted(path for path in CONFIGS.rglob("*.py") if path.parent.name != "_base_")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_builds(path: Path) -> None:
    config = load_config(path)
    train_transform(config.augmentation)
    detector = OpenMMLabDetector(config.model, num_classes=7)
    assert [spec.stride for spec in detector.network.backbone.feature_specs] == [4, 8, 16, 32]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_inherits_at_most_once(path: Path) -> None:
    assert "_base_ =" not in "".join(base.read_text() for base in (CONFIGS / "_base_").iterdir())


@pytest.mark.parametrize(
    ("name", "epochs", "milestones", "drop_path_rate"),
    [
        ("mask-rcnn_swin-t_fpn_1x_coco", 12, (8, 11), 0.1),
        ("mask-rcnn_swin-t_fpn_3x_coco", 36, (27, 33), 0.2),
        ("mask-rcnn_swin-s_fpn_1x_coco", 12, (8, 11), 0.2),
        ("mask-rcnn_swin-s_fpn_3x_coco", 36, (27, 33), 0.2),
    ],
)
def test_it_is_the_official_recipe(name: str, epochs: int, milestones: tuple[int, ...], drop_path_rate: float) -> None:
    config = load_config(CONFIGS / "detection" / f"{name}.py")
    assert (config.schedule.epochs, config.schedule.milestones) == (epochs, milestones)
    assert (config.schedule.warmup_steps, config.schedule.warmup_ratio) == (500, 0.001)
    assert config.model["backbone"]["drop_path_rate"] == drop_path_rate
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (1e-4, 0.05)
    assert config.optimizer.no_decay == ("absolute_pos_embed", "relative_position_bias_table", "norm")
    assert config.augmentation.short_sides == tuple(range(480, 801, 32))
    assert config.augmentation.crop_short_sides == (400, 500, 600)
    assert config.training.clip_gradient_norm is None


@pytest.mark.parametrize(("letter", "params", "macs"), [("t", 47.79e6, 267e9), ("s", 69.11e6, 359e9)])
def test_it_has_the_published_size(letter: str, params: float, macs: float, capsys: pytest.CaptureFixture[str]) -> None:
    config = CONFIGS / "detection" / f"mask-rcnn_swin-{letter}_fpn_3x_coco.py"
    with pytest.raises(SystemExit):
        main(["stats", str(config), "--shape", "800x1280", "--json"])
    sizes = json.loads(capsys.readouterr().out)
    assert sizes["params"] == pytest.approx(params, rel=0.005)
    assert sizes["macs"] == pytest.approx(macs, rel=0.005)
    assert sum(part["macs"] for part in sizes["parts"].values()) == sizes["macs"]
