"""The command line: what goes where, which status it ends with, and errors without a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import annotation_exports
from helpers.commands import answer, command

DEMO = str(Path(__file__).resolve().parents[2] / "configs" / "demo" / "mask-rcnn_swin-nano_shapes.py")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train",), "name a config, or a run folder"),
        (("train", "absent.py"), "absent.py: no such config file"),
        (("train", DEMO, "--set", "data.rot=x"), 'did you mean "root"?'),
        (("train", DEMO, "--data", "absent"), "absent/"),
        (("train", DEMO, "--devices", "two"), "--devices takes a number"),
        (("train", DEMO, "--resume", "absent"), "--resume RUN, which continues with the config in RUN"),
        (("train", "--resume", "absent"), "absent: no such run folder; no folder in "),
        (("evaluate", DEMO), "name its weights with --weights FILE"),
        (("evaluate",), "evaluate takes either RUN, CONFIG --weights FILE, or --gt FILE"),
        (("evaluate", "--gt", "absent.json", "--predictions", "absent.json"), "absent.json"),
        (("stats", "swin_tini"), "swin_tiny"),
        (("stats", "swin_tiny", "--shape", "800"), "--shape takes HEIGHTxWIDTH"),
        (("check-data",), "check-data takes one of CONFIG, --coco FILE"),
        (("predict", DEMO, "absent.jpg", "--weights", "absent.pth", "--output", "out"), "there is no file absent.pth"),
    ],
)
def test_an_error_is_one_message_and_status_2(
    words: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(*words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_extra_that_brings_the_peers(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets are markup in help texts, unless they are escaped."""
    assert command("benchmark", "--help") == 0
    assert "'swin-dense[benchmark]'" in capsys.readouterr().out


def test_stats_of_a_backbone_are_one_json_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = answer(capsys, "stats", "swin_tiny", "--shape", "224x224", "--json")
    assert sizes["params"] == pytest.approx(27.5e6, rel=0.005)
    assert sizes["macs"] == pytest.approx(4.5e9, rel=0.005)


def test_check_data_exits_with_1_where_something_is_wrong(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = shared_data / "coco2017_tiny"
    annotations = coco / "annotations" / "instances_val2017.json"
    assert (
        answer(capsys, "check-data", "--coco", str(annotations), "--images", str(coco / "val2017"), "--json")["counts"][
            "annotations"
        ]
        == 382
    )
    content = json.loads(annotations.read_text())
    content["annotations"][0]["category_id"] = 12
    content["annotations"][5]["bbox"][2] = -1
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(content))
    assert command("check-data", "--coco", str(broken), "--images", str(coco / "val2017")) == 1
    printed = capsys.readouterr().out
    for annotation in (content["annotations"][0], content["annotations"][5]):
        assert str(annotation["id"]) in printed


def test_data_of_another_tool_is_imported_or_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = annotation_exports.yolo(tmp_path / "in"), tmp_path / "out"
    assert command("train", DEMO, "--data", str(source), "--run", str(tmp_path / "run")) == 2
    told = capsys.readouterr().err
    assert f"looks like YOLO: import it first with `swin-dense import-data {source} OUT`, then --data OUT" in told
    annotation_exports.text(source / "labels/val/b.txt", "5 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n")
    assert command("import-data", str(source), str(output), "--json") == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["images"] == {"train": 1, "val": 1} and report["dropped_by_kind"] == {"unknown-class": 1}
    assert f"left out, 1 x unknown-class: {source / 'labels/val/b.txt'}: line 1: class id 5" in captured.err
    assert command("import-data", str(source), str(output)) == 2
    assert command("import-data", str(source), str(tmp_path / "more"), "--split", "train=2") == 2
    assert "the fractions sum to 2" in capsys.readouterr().err


def test_help_comes_at_once_and_imports_neither_lightning_nor_mmdet() -> None:
    program = """
import sys
from swin_dense.cli import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
assert not {"torch", "lightning", "mmdet", "mmengine"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(
        name in done.stdout for name in ("train", "evaluate", "predict", "stats", "check-data", "doctor", "demo")
    )
