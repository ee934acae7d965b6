"""A page about files takes what `swin-dense predict` has written, as a file or as the folder that it has filled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.commands import answer, command
from swin_dense.data.moving_shapes import write_video


def label_map(path: Path, labels: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(labels, np.uint8)).save(path)


def scored(
    truth: Path, predictions: Path, page: Path, capsys: pytest.CaptureFixture[str], *words: str
) -> dict[str, float]:
    """The scores, once a page was written."""
    both = ("--gt", str(truth), "--predictions", str(predictions), *words)
    assert command("report", *both, "--output", str(page)) == 0 and page.stat().st_size > 10_000
    capsys.readouterr()
    found: dict[str, float] = answer(capsys, "evaluate", *both, "--json")
    return found


@pytest.mark.parametrize("named", ["filled/labels", "filled", "filled/predictions.json"])
def test_label_maps_that_were_predicted(named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_map(tmp_path / "truth/a.png", [[0, 1], [1, 1]])
    label_map(tmp_path / "filled/labels/a.png", [[0, 0], [1, 1]])
    label_map(tmp_path / "filled/overlays/a.png", [[9, 9], [9, 9]])
    (tmp_path / "filled/predictions.json").write_text('[{"file_name": "a.jpg", "labels": "labels/a.png"}]')
    scores = scored(tmp_path / "truth", tmp_path / named, tmp_path / "page.html", capsys, "--label-shift", "0")
    assert scores["aAcc"] == 75


@pytest.mark.parametrize("named", ["filled", "filled/predictions.json", "filled/predictions.csv"])
@pytest.mark.parametrize("by_list", [True, False])
def test_classes_that_were_predicted(
    named: str, by_list: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two images have one name, each in the folder of its class."""
    names = ["cat/1.jpg", "dog/1.jpg", "dog/2.jpg"]
    for name in names:
        label_map(tmp_path / "val" / name, [[1, 2], [3, 4]])
    rows = [{"file_name": f"data/val/{name}", "classes": ["dog", "cat"], "probabilities": [0.8, 0.2]} for name in names]
    (tmp_path / "filled").mkdir()
    (tmp_path / "filled/predictions.json").write_text(json.dumps(rows))
    lines = [
        "file_name,class1,probability1,class2,probability2",
        *(f"{row['file_name']},dog,0.8,cat,0.2" for row in rows),
    ]
    (tmp_path / "filled/predictions.csv").write_text("\n".join(lines))
    (tmp_path / "truth.txt").write_text("".join(f"{name} {name[:3]}\n" for name in names))
    truth = tmp_path / ("truth.txt" if by_list else "val")
    scores = scored(truth, tmp_path / named, tmp_path / "page.html", capsys)
    assert scores["top1"] == pytest.approx(2 / 3) and scores["top5"] == 1


def test_classes_of_videos_that_were_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their frames are shown; a picture beside them is no video."""
    rows = []
    for name in ("still/1.mp4", "zoom/1.mp4"):
        path = tmp_path / "val" / name
        path.parent.mkdir(parents=True)
        write_video(path, np.full((5, 32, 48, 3), 99, np.uint8), rate=10)
        rows.append({"file_name": f"val/{name}", "classes": ["still", "zoom"], "probabilities": [0.7, 0.3]})
    label_map(tmp_path / "val" / "still" / "cover.png", [[1]])
    (tmp_path / "found.json").write_text(json.dumps(rows))
    scores = scored(tmp_path / "val", tmp_path / "found.json", tmp_path / "page.html", capsys)
    assert scores["top1"] == 0.5 and "data:image/jpeg" in (tmp_path / "page.html").read_text("utf-8")


def test_images_beside_the_folders_of_classes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_map(tmp_path / "val/1.png", [[1]])
    (tmp_path / "found.json").write_text('[{"file_name": "1.png", "classes": ["cat"]}]')
    words = ("--gt", str(tmp_path / "val"), "--predictions", str(tmp_path / "found.json"))
    assert command("report", *words, "--output", str(tmp_path / "page.html")) == 2
    assert "val/1.png: lies in no folder of a class; name a folder" in capsys.readouterr().err
