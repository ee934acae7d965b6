"""`swin-dense check-data CONFIG`: it checks what `train` with the same words would read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.commands import REPOSITORY, command
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
    assert command("check-data", str(DETECTION), "--data", str(shapes), *splits, "--json") == 0
    reports = json.loads(capsys.readouterr().out)
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
