"""`swin-dense evaluate` and `swin-dense predict`: options that would do nothing are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.commands import REPOSITORY, command
from swin_dense import models
from swin_dense.tasks import prediction, task_named

DETECTION = str(REPOSITORY / "configs" / "demo" / "mask-rcnn_swin-nano_shapes.py")
SEGMENTATION = str(REPOSITORY / "configs" / "demo" / "upernet_swin-nano_shapes.py")
EVALUATE = ("evaluate", "--predictions", "p.json", "--gt")
WITH_WEIGHTS = ("--weights", "w.pth")
PREDICT = ("absent.jpg", *WITH_WEIGHTS, "--output", "out")


@pytest.fixture
def ground_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each kind in the working directory: `gt.json` and the folder `labels`."""
    monkeypatch.chdir(tmp_path)
    Path("gt.json").write_text("{}")
    Path("labels").mkdir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*EVALUATE, "gt.json", "--weights", "w.pth"), "--weights: only with RUN or CONFIG, not with --gt"),
        (
            (*EVALUATE, "gt.json", "--set", "a=1", "--data", "d"),
            "--data, --set: only with RUN or CONFIG, not with --gt",
        ),
        ((*EVALUATE, "labels", "--devices", "auto"), "--devices: only with RUN or CONFIG"),
        ((*EVALUATE, "gt.json", "--ignore-index", "255"), "--ignore-index: only with a folder of label PNGs"),
        ((*EVALUATE, "gt.json", "--classes", "c.txt"), "--classes: only with a folder of label PNGs"),
        ((*EVALUATE, "labels", "--engine", "pycocotools"), "--engine: only with a COCO JSON, and --gt labels is"),
        (("evaluate", DETECTION, *WITH_WEIGHTS, "--label-shift", "0"), "--label-shift: only with --gt DIR"),
        (("evaluate", SEGMENTATION, *WITH_WEIGHTS, "--prediction-shift", "0"), "--prediction-shift: only with --gt"),
        (("evaluate", SEGMENTATION, *WITH_WEIGHTS, "--engine", "pycoco"), "--engine: not for segmentation, which"),
        (("predict", DETECTION, *PREDICT, "--probabilities"), "--probabilities: not for detection, which"),
        (("predict", SEGMENTATION, *PREDICT, "--threshold", "0.3"), "--threshold: not for segmentation"),
        (("predict", SEGMENTATION, *PREDICT, "--min-score", "0.3"), "--min-score: not for segmentation"),
        (("predict", SEGMENTATION, *PREDICT, "--max-detections", "5"), "--max-detections: not for segmentation"),
    ],
)
@pytest.mark.usefixtures("ground_truth")
def test_options_that_would_do_nothing_are_refused(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize(
    "words",
    [
        (*EVALUATE, "absent.json", "--engine", "pycocotools"),
        (*EVALUATE, "labels", "--classes", "absent", "--label-shift", "0", "--ignore-index", "254"),
        ("evaluate", DETECTION, *WITH_WEIGHTS, "--engine", "pycocotools", "--devices", "1", "--data", "absent"),
        ("evaluate", SEGMENTATION, *WITH_WEIGHTS, "--set", "data.root='absent'"),
        ("predict", DETECTION, *PREDICT, "--threshold", "0.3", "--min-score", "0.1", "--max-detections", "5"),
        ("predict", SEGMENTATION, *PREDICT, "--probabilities", "--data", "absent"),
    ],
)
def test_options_are_taken_where_they_belong(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("labels").mkdir()
    assert command(*words) == 2
    message = capsys.readouterr().err
    assert re.search(r"absent|p\.json|w\.pth|no label PNG", message)
    assert not re.search(r"only (with|for)|not for", message)


def test_help_shows_what_holds_where_an_option_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("predict", "--help") == 0
    assert "[default: 0.3]" in capsys.readouterr().out


def test_predict_prints_one_json_object(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"image_id": 0, "file_name": "a.jpg", "category_id": 3, "bbox": [0.0, 1.0, 2.0, 3.0], "score": 0.5}]
    loaded = SimpleNamespace(task=task_named("detection"))
    monkeypatch.setattr(models, "load", lambda *args, **options: loaded)
    monkeypatch.setattr(prediction, "predict_to_folder", lambda *args, **options: rows)
    words = ("predict", DETECTION, *PREDICT)
    assert command(*words, "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"output": "out", "predictions": rows}
    assert captured.err == "detections: 1, in out/predictions.json, pictures beside it\n"
    assert command(*words) == 0
    assert capsys.readouterr().out == captured.err


def test_names_that_no_file_system_takes_are_named_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("evaluate", "--gt", "g" * 5000, "--predictions", "p.json") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ggg") and "File name too long" in line
