"""Boxes without outlines: a detector of boxes trains on them, scores and draws them; one of masks refuses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.commands import REPOSITORY, command, figures
from swin_dense.data.shapes import write_shapes

DEMOS = REPOSITORY / "configs" / "demo"
SHORT = [
    "data.batch_size=2",
    "data.num_workers=0",
    "augmentation.short_sides=[64]",
    "augmentation.test_short_side=64",
    "schedule.epochs=1",
    "schedule.milestones=[]",
    "training.log_every=1",
    "training.pictures=1",
    "model.test_cfg.rcnn.score_thr=0.0",
]


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shapes, with nothing but an id, an image, a category and a box for each object."""
    root = write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=4, val=2, size=64)
    for file in (root / "annotations").glob("instances_*.json"):
        content = json.loads(file.read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"], annotation["area"], annotation["iscrowd"]
        file.write_text(json.dumps(content))
    return root


def train(config: str, data: Path, run: Path) -> int:
    sets = [word for override in SHORT for word in ("--set", override)]
    return command("train", str(DEMOS / config), "--data", str(data), "--run", str(run), *sets)


def test_checking_it_is_a_success(boxes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("check-data", "--coco", str(boxes / "annotations" / "instances_train.json"), "--json") == 0
    assert "fit for box detectors only" in capsys.readouterr().out


def test_a_detector_of_boxes_trains_on_it(boxes: Path, tmp_path: Path) -> None:
    assert train("faster-rcnn_swin-nano_shapes.py", boxes, tmp_path / "run") == 0
    assert len(figures(tmp_path / "run", "train/loss")) == 2
    assert 0 <= figures(tmp_path / "run", "val/bbox_AP")[-1] <= 1
    assert len(list((tmp_path / "run" / "pictures").rglob("*.png"))) == 1


def test_a_detector_of_masks_names_the_annotations(
    boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("mask-rcnn_swin-nano_shapes.py", boxes, tmp_path / "run") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "annotation 1: there is no 'segmentation', nor in any of the" in message
    assert "train a detector of boxes alone, such as faster-rcnn_swin-t_fpn_small-data" in message
