"""`swin-dense check-data CONFIG`: it checks what `train` with the same words would read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.commands import REPOSITORY, answer, command
from swin_dense.data.moving_shapes import write_moving_shapes
from swin_dense.data.shapes import write_shapes

DEMOS = REPOSITORY / "configs" / "demo"
DETECTION, SEGMENTATION = (DEMOS / f"{name}_shapes.py" for name in ("mask-rcnn_swin-nano", "upernet_swin-nano"))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, train=3, val=2)
    return root


def test_the_splits_of_a_config_can_be_set_as_for_train(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = ("--set", "data.train.annotations=annotations/instances_val.json", "--set", "data.train.images=images/val")
    reports = answer(capsys, "check-data", str(DETECTION), "--data", str(shapes), *splits, "--json")
    assert [reports[split]["counts"]["images"] for split in ("train", "val")] == [2, 2]
    assert reports["train"]["annotations"] == str(shapes / "annotations" / "instances_val.json")


def test_the_labels_of_a_config_can_be_set_as_for_train(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("check-data", str(SEGMENTATION), "--data", str(shapes / "ade20k"), "--json")
    assert command(*words) == 0
    capsys.readouterr()
    assert command(*words, "--set", "data.val.labels=annotations/absent") == 1
    errors = [one for one in json.loads(capsys.readouterr().out)["problems"] if one["severity"] == "error"]
    assert [one["file"] for one in errors] == [str(shapes / "ade20k" / "annotations" / "absent")]


def test_set_without_a_config_is_refused(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--set", "data.min_side=3"), ("--data", str(shapes))):
        assert command("check-data", "--ade", str(shapes / "ade20k"), *words) == 2
        assert "--data and --set change what a CONFIG names; there is none" in capsys.readouterr().err


CLASSIFICATION, VIDEO = DEMOS / "swin-nano_shapes.py", DEMOS / "swin3d-nano_moving-shapes.py"


@pytest.mark.parametrize(
    ("config", "folder"),
    [(DETECTION, "."), (SEGMENTATION, "ade20k"), (CLASSIFICATION, "imagenet")],
    ids=lambda one: str(one)[-20:],
)
def test_samples_are_drawn_as_the_model_sees_them(config: Path, folder: str, shapes: Path, tmp_path: Path) -> None:
    """The first sample has the size that the recipe gives it, enlarged by a whole factor, and is not only the image."""
    if folder == "imagenet":  # of all classes
        shapes = write_shapes(tmp_path / "shapes", train=8, val=8)
    assert command("check-data", str(config), "--data", str(shapes / folder), "--samples", str(tmp_path / "drawn")) == 0
    first, *_, grid = sorted((tmp_path / "drawn").iterdir())
    assert grid.name == "grid.png" and first.name.startswith("000000_")
    with Image.open(first) as picture, Image.open(grid) as whole:
        assert max(picture.size) >= 64 and whole.width > picture.width // 2
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 10


def test_clips_are_drawn_as_strips_of_frames_with_their_class(tmp_path: Path) -> None:
    """A caption above eight frames of 32 x 32 pixels, in which the shape moves or stays."""
    data = write_moving_shapes(tmp_path / "data", train=1, val=1)
    assert command("check-data", str(VIDEO), "--data", str(data), "--samples", str(tmp_path / "drawn")) == 0
    *clips, grid = sorted((tmp_path / "drawn").iterdir())
    assert grid.name == "grid.png" and len(clips) == 4
    moved, captions = [], []
    for path in clips:
        with Image.open(path) as opened:
            picture = np.asarray(opened.convert("L")).astype(int)
        height = picture.shape[1] // 8
        frames = picture[-height:].reshape(height, 8, height)
        moved.append(bool((abs(np.diff(frames, axis=1))).max(axis=(0, 2)).min() > 40))
        captions.append(picture[:-height].tobytes())
    assert moved == [True, False, True, True]  # horizontal, still, vertical, zoom
    assert len(set(captions)) == 4


def test_samples_of_no_config_are_refused(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("check-data", "--ade", str(shapes / "ade20k"), "--samples", "drawn") == 2
    assert "--samples draws what a CONFIG makes of images or clips" in capsys.readouterr().err
