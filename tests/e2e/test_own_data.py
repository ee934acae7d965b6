"""`docs/own-data.md` in its own order, on a few generated photos with outlines of Labelme."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from helpers.annotation_exports import json_file
from helpers.commands import REPOSITORY, command
from swin_dense.config import load_config
from swin_dense.tasks import tuning
from swin_dense.tasks.overfit import overfitting

QUICK = ["schedule.epochs=1", "augmentation.short_sides=[64]", "augmentation.test_short_side=64", "data.num_workers=0"]


def photos(folder: Path) -> None:
    """Four places, two photos of each, with one object of every class."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for place in ("desk", "kitchen", "garden", "train"):
        for shot in "12":
            picture = Image.fromarray(rng.integers(0, 90, (80, 120, 3), dtype=np.uint8))
            shapes = []
            for number, label in enumerate(("cup", "fork", "plate")):
                x, y = 40 * number + int(rng.integers(2, 10)), int(rng.integers(5, 45))
                points = [[x, y], [x + 26, y], [x + 26 - 9 * number, y + 28], [x, y + 28]]
                ImageDraw.Draw(picture).polygon([tuple(point) for point in points], fill=(250, 120 * number, 40))
                shapes.append({"label": label, "shape_type": "polygon", "points": points})
            picture.save(folder / f"{place}{shot}.jpg")
            document = {"shapes": shapes, "imagePath": f"{place}{shot}.jpg", "imageHeight": 80, "imageWidth": 120}
            json_file(folder / f"{place}{shot}.json", document)


def test_every_command_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("swin_dense.tasks.tuning.tune", partial(tuning.tune, steps=20))
    photos(tmp_path / "photos")
    page = (REPOSITORY / "docs/own-data.md").read_text("utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 8
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "swin-dense"
        if words[0] == "train":
            words += [word for override in QUICK for word in ("--set", override)]
        # One epoch is not enough to learn anything by heart, and the command says so.
        assert command(*words) == int("--overfit" in words), line
    assert "not learnt by heart: bbox_AP50" in capsys.readouterr().err
    assert (tmp_path / "outputs/samples/grid.png").is_file() and (tmp_path / "outputs/table/predictions.json").is_file()
    assert (tmp_path / "data/table/classes.txt").read_text("utf-8").split() == ["cup", "fork", "plate"]


@pytest.mark.parametrize(
    "name",
    [
        "mask-rcnn_swin-t_fpn_small-data",
        "upernet_swin-t_512_160k_ade20k",
        "swin-t_300e_in1k",
        "swin3d-t_32x2_k400",
    ],
)
def test_learning_by_heart_validates_on_what_it_trains_on_and_leaves_nothing_to_chance(name: str) -> None:
    typed = ["data.val.images=elsewhere", "data.eval_batch_size=3"]
    config = overfitting(load_config(name), 8, typed)
    assert config.data.eval_batch_size == 3
    limit = config.data.limit_videos if config.task == "video" else config.data.limit_images
    assert config.data.val == config.data.train and limit == 8 and config.data.batch_size <= 8
    assert config.augmentation.flip_probability == 0 and config.optimizer.weight_decay == 0
    assert config.model["backbone"]["drop_path_rate"] == config.model.get("head", {}).get("dropout", 0) == 0
    assert getattr(config.augmentation, "ratio", (1, 1)) == (1, 1)
    assert load_config(config, {"schedule.warmup_epochs": 0} if name.startswith("swin") else {}).task == config.task
